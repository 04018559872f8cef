"""The exit code of a node: what happened to its ranks, and never 0 for a training that was stopped."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isc_runtime.ranks import torchrun
from isc_runtime.tests.processes import TRAINING, Ended, Place, rest_of, wait_for
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
    return Place(directory).torchrun(script)


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


def test_an_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    node = ended(tmp_path, "time.sleep(0.5); raise ValueError('mine')")  # nobody speaks meanwhile
    assert node.code == 1
    # With a process group torch puts the rank before each line; these tests may have had one.
    said = re.sub(r"^\[rank\d\]: ?", "", node.output, flags=re.MULTILINE)
    (shown,) = re.findall(r"^Traceback .*?^ValueError: mine$", said, re.MULTILINE | re.DOTALL)
    assert re.findall('File "(.*)", line', shown) == [str(tmp_path / "rank.py")]


LOOKS = """
import atexit, multiprocessing, os, sys, threading
atexit.register(print, "the end of rank", os.environ["RANK"], flush=True)
print(
    f"torch: {'torch' in sys.modules}, start method: {multiprocessing.get_start_method()}, "
    f"own session: {os.getsid(0) == os.getpid()}, name: {__name__}, arguments: {sys.argv[1:]}, "
    f"path: {sys.path[0] == os.path.dirname(os.path.abspath(__file__))}, threads: {threading.active_count()}",
    flush=True,
)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked there")
@pytest.mark.parametrize("variables", [{}, {"COVERAGE_PROCESS_START": "x"}], ids=["forked", "anew"])
def test_a_rank_that_was_forked_is_like_a_new_process(tmp_path: Path, variables: dict[str, str]) -> None:
    """But for torch, which is there already; what looks at each process as it starts gets a new one."""
    script = tmp_path / "looks.py"
    script.write_text(LOOKS)
    node = Place(tmp_path, variables=variables).torchrun(script, "--one", "two")
    usual = multiprocessing.get_all_start_methods()[0]
    says = f"torch: {not variables}, start method: {usual}, own session: True, name: __main__, "
    says += "arguments: ['--one', 'two'], path: True, threads: 1"
    assert node.output.count(says) == 2, node.output
    for rank in range(2):
        assert f"the end of rank {rank}" in node.output
    assert node.code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked there")
def test_a_script_with_a_runtime_of_its_own_gets_that_one(tmp_path: Path) -> None:
    own = tmp_path / "another" / "isc_runtime"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("")
    script = own.with_name("imports.py")
    script.write_text("import isc_runtime\nprint(isc_runtime.__file__)\n")
    node = Place(tmp_path).torchrun(script)
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
    assert torchrun.save_timeout(["--epochs", "3", "--save-timeout", "7200"]) == 7200
    assert torchrun.save_timeout(["--save-timeout=45.5", "--other"]) == 45.5
    assert torchrun.save_timeout(["--save-timeout", "soon"]) == torchrun.save_timeout([]) == 1800
    node = stopped(tmp_path, "--save-timeout", "3", seconds=1.0)
    assert (node.code, "saved" in node.output) == (143, True)
    assert "killed" not in node.output


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
    node = place.torchrun(place.script, "--fresh", "--save-steps", "2", "--epochs", "1")
    assert node.code == 0, node.output
    assert node.steps("Resumed from")[0] >= 2
    assert node.output.count("No checkpoint in") == 1


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
