"""Signals set a flag; workers live exactly as long as their training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from isc_runtime.ranks.interruption import Stopped, StopRequest
from isc_runtime.tests.processes import PROJECT

WITH_WORKERS = """
import os, sys, time
from torch.utils.data import DataLoader
from isc_runtime.ranks.interruption import prepare_worker
iterator = iter(DataLoader(range(10**6), num_workers=2, worker_init_fn=prepare_worker))
next(iterator), next(iterator)  # one from each: both have begun
print(*[worker.pid for worker in iterator._workers], flush=True)
time.sleep(600)
"""

WITH_A_STUCK_WORKER = """
import time
from torch.utils.data import DataLoader, _utils
from isc_runtime.ranks.interruption import prepare_worker, show_stacks
_utils.MP_STATUS_CHECK_INTERVAL = 0.2  # else torch itself gives a worker 5 s to end
class Storage:
    def __len__(self):
        return 1
    def __getitem__(self, index):
        time.sleep(600)
iterator = iter(DataLoader(Storage(), num_workers=1, worker_init_fn=prepare_worker))
time.sleep(0.5)
show_stacks()
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


def test_a_signal_is_noted_and_a_second_one_a_moment_later_ends_the_process() -> None:
    """torchrun passes on what a scheduler has sent to its ranks as well: those two are one wish."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [str(int(signal.SIGUSR1))] * 2, ended.stderr
    assert ended.returncode == 128 + signal.SIGTERM


def test_a_stop_is_never_read_as_completed() -> None:
    with pytest.raises(SystemExit) as raised:
        raise Stopped(signal.SIGTERM)
    assert raised.value.code == 143
    assert StopRequest().signal_number == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the workers notice within seconds")
def test_a_killed_training_leaves_no_workers() -> None:
    training = subprocess.Popen(
        [sys.executable, "-c", WITH_WORKERS], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
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
def test_a_worker_that_is_stuck_is_shown_and_holds_up_no_end() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITH_A_STUCK_WORKER],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    training, _, worker = ended.stderr.partition("And its worker ")
    assert ended.returncode == 0, ended.stderr
    assert "show_stacks" in training
    assert "in __getitem__" in worker, ended.stderr


def is_running(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # a path of the kernel's
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
