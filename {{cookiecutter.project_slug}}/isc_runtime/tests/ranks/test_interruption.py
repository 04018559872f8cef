"""Signals set a flag; workers live exactly as long as their training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isc_runtime.ranks.interruption import Stopped, StopRequest, preparing_workers
from isc_runtime.tests.processes import PROJECT, Place

WITH_WORKERS = """
import os, sys, time
from torch.utils.data import DataLoader
from isc_runtime.ranks.interruption import prepare_worker
if __name__ == "__main__":
    loader = DataLoader(
        range(10**6), num_workers=2, worker_init_fn=prepare_worker, multiprocessing_context=sys.argv[1]
    )
    iterator = iter(loader)
    next(iterator), next(iterator)  # one from each: both have begun
    print(*[worker.pid for worker in iterator._workers], flush=True)
    time.sleep(600)
"""

WITH_A_STUCK_WORKER = """
import pathlib, sys, time
from torch.utils.data import DataLoader, _utils
from isc_runtime.ranks.interruption import prepare_worker, show_stacks
_utils.MP_STATUS_CHECK_INTERVAL = 0.2  # else torch itself gives a worker 5 s to end
class Storage:
    def __len__(self):
        return 2
    def __getitem__(self, index):
        pathlib.Path(f"begun-{index}").touch()
        time.sleep(600 * index)
        return index
if __name__ == "__main__":
    loader = DataLoader(
        Storage(), num_workers=2, worker_init_fn=prepare_worker, multiprocessing_context=sys.argv[1]
    )
    iterator = iter(loader)
    next(iterator)
    while not pathlib.Path("begun-1").exists():
        time.sleep(0.05)
    show_stacks()
"""

ON_A_MAC = """
import multiprocessing, sys, time
from torch.utils.data import DataLoader, _utils
from isc_runtime.ranks.interruption import prepare_worker
sys.platform = "darwin"  # in the workers too: they import this file, or are forks of its process
_utils.MP_STATUS_CHECK_INTERVAL = 0.2
class Storage:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        time.sleep(600 * (index > 1))
        return index
if __name__ == "__main__":
    loader = DataLoader(
        Storage(), num_workers=2, worker_init_fn=prepare_worker, multiprocessing_context=sys.argv[1]
    )
    iterator = iter(loader)
    next(iterator), next(iterator)  # both have begun, and are stuck from now on
    print(*[worker.pid for worker in iterator._workers], flush=True)
    if sys.argv[2] == "dropped":
        del iterator
"""

SIGNALLED = """
import os, signal, sys, time
from isc_runtime.ranks.interruption import StopRequest
stop = StopRequest()
for pause, number in ((0.2, signal.SIGUSR1), (0.2, signal.SIGTERM), (2.5, signal.SIGTERM)):
    time.sleep(pause)
    os.kill(os.getpid(), number)
    time.sleep(0.2)
    print(stop.signal_number, flush=True)
"""

WITH_CHILDREN = """
import multiprocessing, os, signal, sys, time
from torch.utils.data import DataLoader
from isc_runtime.ranks.interruption import StopRequest

def wait():
    time.sleep(600)

def double(number):
    return 2 * number

class Slow:
    def __len__(self):
        return 100
    def __getitem__(self, index):
        time.sleep(0.01)
        return index

if __name__ == "__main__":
    stop = StopRequest()
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:  # which terminates its workers
        assert pool.map(double, [1, 2]) == [2, 4]
    time.sleep(0.5)  # until the pool's threads are gone: python/cpython#112275, a fork that never starts
    child = context.Process(target=wait)
    child.start()
    time.sleep(0.5)
    child.terminate()
    child.join(20)
    assert child.exitcode == -signal.SIGTERM, child.exitcode
    iterator = iter(DataLoader(Slow(), num_workers=1, multiprocessing_context=sys.argv[1]))
    next(iterator)
    iterator._workers[0].terminate()
    del iterator
    time.sleep(0.2)
    assert stop.signal_number == 0, stop.signal_number
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.2)
    assert stop.signal_number == signal.SIGUSR1, "it still listens itself"
    print("all went on")
"""


def test_a_signal_is_noted_and_a_second_one_a_moment_later_ends_the_process() -> None:
    """torchrun passes on what a scheduler has sent to its ranks as well: those two are one wish."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [str(int(signal.SIGUSR1))] * 2, ended.stderr
    assert ended.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_ends_a_child_asks_the_training_for_nothing(method: str, tmp_path: Path) -> None:
    script = tmp_path / "children.py"
    script.write_text(WITH_CHILDREN)
    ended = subprocess.run(
        [sys.executable, script, method],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "all went on" in ended.stdout, ended.stderr


def test_a_worker_that_is_about_to_be_prepared_is_not_ended() -> None:
    StopRequest()
    with preparing_workers():
        pid = os.fork()
        if not pid:
            time.sleep(0.3)
            os._exit(0)
    time.sleep(0.1)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_ask_too(number: signal.Signals) -> None:
    program = f"import signal; signal.signal({number:d}, signal.SIG_DFL)\n"  # whoever started the tests
    program += SIGNALLED.replace("signal.SIGUSR1", f"signal.{number.name}").replace("2.5", "0.1")
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [str(int(number))] * 3, ended.stderr


def test_what_nohup_ignores_stays_ignored() -> None:
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    program += SIGNALLED.replace("signal.SIGUSR1", "signal.SIGHUP").replace("2.5", "0.1")
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == ["0", "15", "15"], ended.stderr


def test_a_stop_is_never_read_as_completed() -> None:
    with pytest.raises(SystemExit) as raised:
        raise Stopped(signal.SIGTERM)
    assert raised.value.code == 143
    assert StopRequest().signal_number == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the workers notice within seconds")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_killed_training_leaves_no_workers(method: str, tmp_path: Path) -> None:
    script = tmp_path / "with_workers.py"
    script.write_text(WITH_WORKERS)
    training = Place(tmp_path, script=script).start(method)
    assert training.stdout is not None
    workers = [int(pid) for pid in training.stdout.readline().split()]
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, signal.SIGTERM)  # ignored: the training is told too, and decides
    time.sleep(0.2)
    assert all(is_running(worker) for worker in workers)
    training.kill()
    training.communicate()
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no signal tells who has sent it")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_that_is_stuck_is_shown_and_holds_up_no_end(method: str, tmp_path: Path) -> None:
    script = tmp_path / "with_a_stuck_worker.py"
    script.write_text(WITH_A_STUCK_WORKER)
    ended = Place(tmp_path, script=script).run(method)
    training, _, workers = ended.output.partition("And its worker ")
    assert ended.code == 0, ended.output
    assert "show_stacks" in training
    assert "in __getitem__" in workers, ended.output


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("iterator", ["kept", "dropped"])
def test_a_training_ends_its_workers_where_no_signal_tells_who_has_sent_it(
    tmp_path: Path, method: str, iterator: str
) -> None:
    script = tmp_path / "on_a_mac.py"
    script.write_text(ON_A_MAC)
    ended = subprocess.run(
        [sys.executable, str(script), method, iterator],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    workers = [int(pid) for pid in ended.stdout.split()]
    assert len(workers) == 2
    assert not any(is_running(worker) for worker in workers)


def is_running(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # a path of the kernel's
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
