"""Signals set a flag; workers live exactly as long as their training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from isc_runtime.interruption import Stopped, StopRequest
from tests.processes import PROJECT

WITH_WORKERS = """
import os, sys, time
from torch.utils.data import DataLoader
from isc_runtime.interruption import prepare_worker
iterator = iter(DataLoader(range(10**6), num_workers=2, worker_init_fn=prepare_worker))
next(iterator)
print(*[worker.pid for worker in iterator._workers], flush=True)
time.sleep(600)
"""


def test_a_signal_is_noted_and_a_second_one_has_its_usual_effect() -> None:
    code = "import signal\nfrom isc_runtime.interruption import StopRequest\nstop = StopRequest()\n"
    code += "signal.raise_signal(signal.SIGUSR1)\nprint(int(stop.signal_number), flush=True)\n"
    code += "signal.raise_signal(signal.SIGTERM)\nprint('still there')"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [str(int(signal.SIGUSR1))]
    assert ended.returncode == -signal.SIGTERM


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


def is_running(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # a path of the kernel's
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
