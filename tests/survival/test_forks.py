"""A process that is forked while collectives end, as a data-loading worker is, always starts."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from conftest import SOAK
from isc_runtime.environment import Environment
from isc_runtime.ranks.group import Group, process_group
from ranks import free_port
from trainee import fork

FORKS = 500 * SOAK  # of each rank; without `group._before_fork` one in a thousand or so hangs
PULSES = 8  # collectives under way at each
PATIENCE = 10  # seconds for a process that only ends


def test_forks_among_collectives(tmp_path: Path) -> None:
    port = free_port()
    children = [fork(partial(work, rank, port), tmp_path / f"rank{rank}.txt") for rank in range(2)]
    codes = [child.wait() for child in children]
    assert codes == [0, 0], [child.log.read_text() for child in children]


def work(rank: int, port: str, tell: Callable[[str], None]) -> None:
    """What each of two ranks does."""
    variables = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    os.environ.update(variables, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    chance = random.Random(rank)
    with process_group(Environment.read(), 60, 60) as group:
        hung = sum(not starts(group, chance.uniform(0, 5e-4)) for _ in range(FORKS))
        assert group.gather(hung) == [0, 0]


def starts(group: Group, delay: float) -> bool:
    """Whether a process that is forked after `delay` seconds comes to its end."""
    for _ in range(PULSES):
        group.pulse(0)
    moment = time.perf_counter() + delay
    while time.perf_counter() < moment:
        pass
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.0005)
    return True
