"""Ranks of which one is in trouble that only a watch can notice: all others wait where nothing ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.reporting import reported

TIMEOUT = 2.0  # seconds for a batch
LIMIT = 30  # seconds after which a rank ends by SIGALRM: nobody watched it


def work(trouble: Callable[[Group], None], timeout: float = TIMEOUT) -> None:
    """What a rank does, from its start to its end.

    Args:
        trouble: what it does after its first batch; then it waits for what never comes.
        timeout: seconds for a batch.
    """
    signal.alarm(LIMIT)
    with reported(), process_group(Environment.read(), 60, timeout) as group:
        print(f"rank {group.rank} is here: {os.getpid()}", flush=True)
        group.gather(None)
        group.pulse(0)
        wait_for_pulses(group)
        trouble(group)
        wait_where_nothing_ends(group)


def wait_for_pulses(group: Group) -> None:
    """None is under way when this returns: nobody is waited for any more."""
    for pulse in filter(None, (group._last_pulse, group._pulse)):
        pulse[1].wait()


def come_late(first_timeout: float) -> None:
    """The last rank does not come: it stands still before the others know of it."""
    signal.alarm(LIMIT)
    environment = Environment.read()
    if environment.rank == environment.world_size - 1:
        time.sleep(3 * first_timeout)
        return
    with reported(), process_group(environment, first_timeout, 600):
        raise AssertionError("a group came about without all its ranks")


def lose_the_launcher(told: Path) -> None:
    """Reads the environment, as the first stage does, and finds torchrun gone when torch is imported."""
    environment = Environment.read()
    told.write_text(str(os.getpid()))
    while os.getppid() == environment.launcher:
        time.sleep(0.01)
    with reported(), process_group(environment, 60, 600):
        print("it trains on")


def wait_where_nothing_ends(group: Group) -> None:
    """Rank 0 waits for the last rank in a collective that learns of no other one; the last one computes."""
    if group.rank == 0:
        dist.recv(torch.zeros(1), src=group.world_size - 1)
    time.sleep(600)


def nothing(group: Group) -> None:
    """No trouble of this rank's own."""


def fall_alone(group: Group) -> None:
    """Rank 1 fails at what is its own, while the others wait."""
    if group.rank == 1:
        time.sleep(0.5)
        raise IscError("The thing is broken", "/some/path", "Repair it.", ExitCode.DATA)


def go_on(group: Group) -> None:
    """Something like a save: longer than a batch may take, but with words between the ranks; then a batch."""
    for _ in range(2):
        time.sleep(0.6 * TIMEOUT)
        group.gather(None)
    time.sleep(0.6 * TIMEOUT)
    group.pulse(0)
    wait_for_pulses(group)
    time.sleep(0.6 * TIMEOUT)
    print(f"rank {group.rank} goes on", flush=True)


def stand_still(rank: int, group: Group) -> None:
    """That rank stops, as a machine that hangs does, and goes on when the other one has ended."""
    if group.rank == rank:
        own = str(Path("/proc/self/fd/1").readlink())
        other = own.replace(f"rank{rank}", f"rank{1 - rank}")
        waker = f"for i in $(seq 150); do grep -q ERROR {other} && break; sleep 0.1; done; kill -CONT $PPID"
        subprocess.Popen(["sh", "-c", waker], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.kill(os.getpid(), signal.SIGSTOP)
