"""The exit code of a node: what happened to its ranks, and never 0 for a training that was stopped."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed.run as run_of_torch
from torch.distributed.elastic.multiprocessing import api as launchers

from isc_runtime.ranks.launching import fork_server, torchrun
from isc_runtime.tests.processes import PROJECT, TRAINING, UNSET, Ended, Place, rest_of, wait_for
from isc_runtime.tests.ranks.test_interruption import is_running

RANK = """
import os, signal, sys, time
print("rank", os.environ["RANK"], "is here", flush=True)
if os.environ["RANK"] == "1":
    {ends}
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
time.sleep({seconds})
"""


def ended(directory: Path, ends: str, seconds: int = 60) -> Ended:
    """Two ranks, of which rank 1 ends in this way."""
    script = directory / "rank.py"
    script.write_text(RANK.format(ends=ends, seconds=seconds))
    return Place(directory, script=script).run(ranks=2)


@pytest.mark.parametrize(
    ("ends", "code"),
    [("sys.exit(6)", 6), ("os._exit(5)", 5), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
    ids=["with a code", "at once", "killed"],
)
def test_it_ends_with_the_code_of_the_rank_that_failed(tmp_path: Path, ends: str, code: int) -> None:
    node = ended(tmp_path, ends)
    assert node.code == code
    assert re.search(rf"rank 1 ended first, with exit code {code}$", node.output, re.MULTILINE)
    assert "Traceback" not in node.output


@pytest.mark.parametrize("ends", ["pass", "sys.exit()", "sys.exit(0)", "os._exit(0)"])
def test_a_training_that_is_complete_ends_with_0(tmp_path: Path, ends: str) -> None:
    assert ended(tmp_path, ends, seconds=0).code == 0


@pytest.mark.parametrize("ends", ["pass", "sys.exit(6)"])
def test_no_folder_is_left_behind(tmp_path: Path, ends: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(ends=ends, seconds=0))
    Place(tmp_path, variables={"TMPDIR": str(temporary)}, script=script).run(ranks=2)
    assert [path for path in temporary.iterdir() if "inductor" not in path.name] == []


def test_an_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    node = ended(tmp_path, "time.sleep(0.5); raise ValueError('mine')")  # nobody speaks meanwhile
    assert node.code == 1
    # With a process group torch puts the rank before each line; these tests may have had one.
    said = re.sub(r"^\[rank\d\]: ?", "", node.output, flags=re.MULTILINE)
    (shown,) = re.findall(r"^Traceback .*?^ValueError: mine$", said, re.MULTILINE | re.DOTALL)
    assert re.findall('File "(.*)", line', shown) == [str(tmp_path / "rank.py")]


def test_what_two_ranks_say_of_an_error_is_not_mixed(tmp_path: Path) -> None:
    """Whoever shows it writes piece by piece, as Python does."""
    script = tmp_path / "fails.py"
    pieces = "[(sys.stderr.write(word), time.sleep(0.2)) for word in ('<1>', '<2>', '<3>')]"
    script.write_text(f"import sys, time\nsys.excepthook = lambda *_: {pieces}\nraise ValueError\n")
    node = Place(tmp_path, script=script).run(ranks=2)
    assert node.code == 1
    assert node.output.count("<1><2><3>") == node.output.count("<1>") >= 1, node.output


@pytest.mark.parametrize("hook", ["1 / 0", "sys.stderr.fileno()", "sys.stderr.buffer.write(b'')"])
def test_an_error_is_shown_whatever_becomes_of_the_hook_that_is_to_show_it(tmp_path: Path, hook: str) -> None:
    node = ended(tmp_path, f"sys.excepthook = lambda *_: {hook}; raise ValueError('mine')")
    assert node.code == 1
    assert "ValueError: mine" in node.output


LOOKS = """
import atexit, multiprocessing, os, signal, sys, threading, time, numpy, torch
file = open("said-" + os.environ["RANK"], "w")  # and never closed
atexit.register(print, "the end", file=file)
threading.Thread(target=lambda: (time.sleep(0.3), print("a thread's end", file=file))).start()
process = multiprocessing.current_process()
print(numpy.random.rand(), file=file)
print(torch.rand(1), file=file)
for value in (
    __name__, __file__, __spec__, sys.modules["__main__"].__dict__ is globals(), sys.argv, sys.path,
    multiprocessing.get_start_method(True), multiprocessing.parent_process(), process.name,
    multiprocessing.active_children(), process.daemon, process._identity,
    os.getsid(0) == os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, []), sys.stdout.write_through,
    [signal.getsignal(number) for number in (2, 15, 17)], torch.get_num_threads(),
):
    print(value, file=file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked there")
def test_a_rank_that_was_forked_is_like_a_new_process(tmp_path: Path) -> None:
    """What looks at each process as it starts gets new ones; they are what the forks are compared with."""
    script = tmp_path / "looks.py"
    script.write_text(LOOKS)
    said = []
    for variables in ({}, {"COVERAGE_PROCESS_START": "x"}):
        node = Place(tmp_path, variables=variables, script=script).run("--one", "two", ranks=2)
        assert node.code == 0, node.output
        said += [(tmp_path / f"said-{rank}").read_text().splitlines() for rank in range(2)]
    for drawn in range(2):
        assert len({words[drawn] for words in said}) == 4  # each of them its own
    assert len(said[0]) == 21
    for words in said[1:]:
        assert words[2:] == said[0][2:]


STARTS = """
import multiprocessing, os
def work(queue):
    queue.put(multiprocessing.parent_process().name)
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=work, args=(queue,))
        child.start()
        os.write(1, f"{method} {queue.get(timeout=50)}".encode() + bytes([10]))
        child.join()
        with context.Pool(2) as pool:
            os.write(1, f"{method} {pool.map(abs, [-1, -2])}".encode() + bytes([10]))
"""


def test_a_rank_starts_processes_in_all_ways(tmp_path: Path) -> None:
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    node = Place(tmp_path, script=script).run(ranks=2)
    assert node.code == 0, node.output
    for method in ("fork", "spawn", "forkserver"):
        assert node.output.count(f"{method} MainProcess") == 2, node.output
        assert node.output.count(f"{method} [1, 2]") == 2
    assert "leaked" not in node.output


OTHER_PYTHON = """
import multiprocessing.forkserver, multiprocessing.util
class Util:
    def __getattr__(self, name):
        return getattr(multiprocessing.util, name)
    def spawnv_passfds(self, path, words, descriptors):
        at = words.index("-c") + 1
        words = [*words[:at], {code}, *{arguments}]
        return multiprocessing.util.spawnv_passfds(path, words, descriptors)
multiprocessing.forkserver.util = Util()
"""
KNOWN = "from multiprocessing.forkserver import main"


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("'import sys; ' + words[at]", ["rank.py", "--one"]),
        (
            f"words[at].replace({KNOWN!r}, 'from multiprocessing import forkserver; main = forkserver.main')",
            [],
        ),
    ],
    ids=["as 3.14.8 does", "as none does"],
)
def test_ranks_start_however_python_starts_its_server(
    tmp_path: Path, code: str, arguments: list[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(OTHER_PYTHON.format(code=code, arguments=arguments))
    script = tmp_path / "rank.py"
    script.write_text("import os, sys\nos.write(1, f'{sys.argv[1:]} is asked for. '.encode())\n")
    path = os.pathsep.join([str(PROJECT), str(tmp_path)])
    node = Place(tmp_path, variables={"PYTHONPATH": path}, script=script).run("--two", ranks=2)
    assert node.code == 0, node.output
    assert node.output.count("['--two'] is asked for.") == 2


@pytest.mark.parametrize(
    ("beside", "code", "says"),
    [
        ("sys.exit('not on this machine')", 1, "not on this machine"),
        ("raise ValueError('half of it')", 1, "ValueError: half of it"),
        ("import module_that_is_missing", 1, "No module named 'module_that_is_missing'"),
        ("import torch; torch.ones(2000, 2000) @ torch.ones(2000, 2000)", 0, "done with it"),
        ("threading.Thread(target=time.sleep, args=(5,), daemon=True).start()", 0, "done with it"),
        ("file = open(__file__)", 0, "threading"),
    ],
    ids=["exits", "fails", "lacks one", "computes", "starts a thread", "holds a file"],
)
def test_a_package_may_do_what_it_likes_when_it_is_imported(
    tmp_path: Path, beside: str, code: int, says: str
) -> None:
    """It is imported before ranks are forked, and they must be as if it was not."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "package_of_others.py").write_text(f"import sys, threading, time\n{beside}\n")
    script = tmp_path / "imports.py"
    script.write_text("import package_of_others as it\nprint('done with it', *getattr(it, 'file', ''))\n")
    path = os.pathsep.join([str(PROJECT), str(packages)])
    node = Place(tmp_path, variables={"PYTHONPATH": path}, script=script).run(ranks=2)
    assert node.code == code, node.output
    assert says in node.output


SAYS = "sys.stdout.write(f'it is {it.mine}.')"  # at once: the ranks' words may not mix


@pytest.mark.parametrize(
    "how",
    ["os.environ['MINE'] = 'set'", "os.environ.update(MINE='set')", "from neighbour import nothing"],
    ids=["one", "more", "in another file"],
)
def test_a_variable_that_a_script_sets_is_there_when_a_package_is_imported(tmp_path: Path, how: str) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "package_of_others.py").write_text("import os\nmine = os.environ.get('MINE')\n")
    (tmp_path / "neighbour.py").write_text("import os\nos.environ.setdefault('MINE', 'set')\nnothing = 0\n")
    script = tmp_path / "sets.py"
    script.write_text(f"import os, sys\n{how}\nimport package_of_others as it\n{SAYS}\n")
    path = os.pathsep.join([str(PROJECT), str(packages)])
    node = Place(tmp_path, variables={"PYTHONPATH": path}, script=script).run(ranks=2)
    assert node.output.count("it is set.") == 2, node.output


@pytest.mark.parametrize(
    ("source", "sets"),
    [
        ("import os\nhome = os.environ['HOME']\n", False),
        ("from os import environ\nhome = environ.get('HOME'), 'HOME' in environ, environ.copy()\n", False),
        ("import os\nos.getenv('HOME')\n", False),
        ("import os as system\nsystem.environ['HOME'] = ''\n", True),
        ("import os\ndel os.environ['HOME']\n", True),
        ("import os\nvariables = os.environ\n", True),
        ("from os import environ as e\ne['HOME'] = ''\n", True),
        ("from os import putenv as p\n", True),
        ("from dotenv import load_dotenv\n", True),
    ],
)
def test_what_sets_variables(source: str, sets: bool) -> None:
    assert fork_server.sets_environment(ast.parse(source)) is sets


@pytest.mark.parametrize("asked", ["2", "cpu"])
def test_the_number_of_ranks_may_be_in_a_variable(tmp_path: Path, asked: str) -> None:
    script = tmp_path / "threads.py"
    # In one piece: two ranks write into one pipe.
    script.write_text("import os, torch\nos.write(1, f'threads {torch.get_num_threads()}\\n'.encode())\n")
    place = Place(tmp_path, variables={"PET_NPROC_PER_NODE": asked, "OMP_NUM_THREADS": UNSET})
    command = [sys.executable, "-m", "isc_runtime", "torchrun", "--standalone", str(script)]
    result = subprocess.run(command, cwd=tmp_path, env=place.environment(), capture_output=True, text=True)
    ranks = 2 if asked == "2" else os.cpu_count() or 1
    threads = 1 if ranks > 1 else os.cpu_count()
    assert result.stdout.count(f"threads {threads}\n") == ranks, result.stderr


@pytest.mark.parametrize(
    ("script", "says"),
    [("missing.py", "No such file"), ("broken.py", "SyntaxError"), (".", "can't find '__main__'")],
)
def test_what_is_no_script_is_said(tmp_path: Path, script: str, says: str) -> None:
    (tmp_path / "broken.py").write_text("def broken(:\n")
    node = Place(tmp_path, script=tmp_path / script).run(ranks=2)
    assert node.code != 0
    assert says in node.output


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked there")
def test_a_script_with_a_runtime_of_its_own_gets_that_one(tmp_path: Path) -> None:
    own = tmp_path / "another" / "isc_runtime"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("")
    script = own.with_name("imports.py")
    script.write_text("import isc_runtime\nprint(isc_runtime.__file__)\n")
    node = Place(tmp_path, script=script).run(ranks=2)
    assert node.output.count(str(own / "__init__.py")) == 2, node.output


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two ranks that are there and sleep, until they are asked to end."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(ends="pass", seconds=60))
    process = Place(tmp_path, script=script).start(ranks=2)
    wait_for(process, "is here")
    wait_for(process, "is here")
    yield process
    process.kill()


def descendants(pid: int) -> list[int]:
    """The processes that came from this one."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [one for child in children for one in descendants(child)]


@pytest.mark.skipif(sys.platform != "linux", reason="how processes are found there")
def test_nothing_outlives_torchrun(started: subprocess.Popen[str]) -> None:
    begun = descendants(started.pid)
    started.kill()
    rest_of(started)
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in begun):
        assert time.monotonic() < deadline, "somebody goes on without torchrun"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="how processes are found there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_stops_it_as_one_to_torchrun_does(
    started: subprocess.Popen[str], number: signal.Signals
) -> None:
    for pid in (*descendants(started.pid), started.pid):
        os.kill(pid, number)
    said = rest_of(started)
    assert started.returncode == 128 + number
    assert "resource_tracker" not in said  # multiprocessing's own process lives on, too


@pytest.mark.skipif(sys.platform != "linux", reason="how processes are found there")
def test_what_nohup_ignores_stops_no_rank_and_no_torchrun(tmp_path: Path) -> None:
    """`nohup bash launch.sh &`, and the terminal is closed: all of them hear of it, and go on to the end."""
    place = Place(tmp_path, script=tmp_path / "rank.py")
    place.script.write_text(RANK.format(ends="pass", seconds=3))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited
    try:
        process = place.start(ranks=2)
    finally:
        signal.signal(signal.SIGHUP, before)
    for _ in range(2):
        wait_for(process, "is here")
    for pid in (*descendants(process.pid), process.pid):
        os.kill(pid, signal.SIGHUP)
    said = rest_of(process)
    assert process.returncode == 0, said


ASKED_AGAIN = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
class Log:
    def write(self, text):
        os.kill(os.getpid(), signal.SIGTERM)
    def flush(self):
        pass
sys.stderr = Log()
sys.exit("the reason")
"""


def test_a_rank_that_is_asked_to_stop_while_it_ends_ends(tmp_path: Path) -> None:
    """torchrun's own signal comes when the one to all has been heard. Half an hour it waited for the rank."""
    script = tmp_path / "rank.py"
    script.write_text(ASKED_AGAIN)
    node = Place(tmp_path, script=script).run(ranks=2)
    assert node.code == 1, node.output


@pytest.mark.parametrize("where", ["lost", "in the middle of something else"])
def test_no_signal_is_lost_wherever_torchrun_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def run(options: object) -> None:
        try:
            launchers._terminate_process_handler(signal.SIGTERM, None)
        except Exception:
            if where != "lost":
                raise UnboundLocalError("start") from None
        with pytest.raises(Exception, match="signal: 15"):
            launchers.PContext.wait(None, 0)  # type: ignore[arg-type]  # it does not get so far

    monkeypatch.setattr(run_of_torch, "run", run)
    monkeypatch.setattr(fork_server, "start", lambda script: False)
    assert torchrun.torchrun([str(tmp_path / "rank.py")]) == 143


def test_a_training_that_is_stopped_never_ends_with_0(started: subprocess.Popen[str]) -> None:
    """Not even when the ranks take the signal for a reason to end well."""
    started.send_signal(signal.SIGUSR1)
    rest_of(started)
    assert started.returncode == 128 + signal.SIGUSR1


SAVES = """
import signal, sys, time
def save(number, frame):
    time.sleep({seconds})
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("is here", flush=True)
time.sleep(60)
"""


def stopped(directory: Path, *arguments: str, seconds: float) -> Ended:
    """A rank that saves for so long when it is asked to stop."""
    script = directory / "rank.py"
    script.write_text(SAVES.format(seconds=seconds))
    process = Place(directory, script=script).start(*arguments, by_torchrun=True)
    wait_for(process, "is here")
    process.send_signal(signal.SIGTERM)
    return Ended(process.wait(60), rest_of(process))


def test_the_last_save_is_waited_for(tmp_path: Path) -> None:
    """As long as a save may take, and not for torchrun's 30 s."""
    node = stopped(tmp_path, "--save-timeout", "3", seconds=1.0)
    assert (node.code, "saved" in node.output) == (143, True)
    assert "killed" not in node.output


def test_the_limit_of_a_save_may_be_in_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that save for longer are killed: the limit is that of the file beside the script."""
    monkeypatch.setattr(torchrun, "MARGIN", 0)
    (tmp_path / "rank.toml").write_text("save-timeout = 1\n")
    (tmp_path / "rank.py").write_text(SAVES.format(seconds=30))
    asked: list[object] = []
    monkeypatch.setattr(run_of_torch, "run", lambda options: asked.append(options.shutdown_timeout))
    monkeypatch.setattr(fork_server, "start", lambda script: False)
    assert torchrun.torchrun([str(tmp_path / "rank.py")]) == 0
    assert torchrun.torchrun([str(tmp_path / "rank.py"), "--save-timeout", "7"]) == 0
    assert asked == [1, 7]


def test_ranks_that_were_killed_before_they_had_saved_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")
    node = stopped(tmp_path, seconds=30.0)
    assert node.code == 137
    assert "asked to stop by signal 15, and ranks were killed before they had saved" in node.output
    assert "--save-timeout" in node.output


def test_restarts_of_torchrun_go_on_and_only_the_first_attempt_is_fresh(tmp_path: Path) -> None:
    """The reason of the first attempt, which the store keeps, is none for the second."""
    place = Place(tmp_path, variables={"PET_MAX_RESTARTS": "1"}, script=tmp_path / "fails_once.py")
    place.script.write_text(FAILS_ONCE)
    node = place.run("--fresh", "--save-steps", "2", "--epochs", "1", ranks=2)
    first, resumed, second = node.output.partition("Resumed from")
    assert (node.code, bool(resumed)) == (0, True), node.output
    assert [text.count("No checkpoint in") > 0 for text in (first, second)] == [True, False], node.output
    assert node.steps("Resumed from")[0] >= 2, node.output


FAILS_ONCE = f"""
import os, runpy, sys
from isc_runtime.ranks.group import Group
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    pulse, calls = Group.pulse, []
    def failing(self, *words):
        calls.append(1)
        if len(calls) == 5:
            raise ValueError("once")
        return pulse(self, *words)
    Group.pulse = failing
runpy.run_path({str(TRAINING)!r}, run_name="__main__")
"""
