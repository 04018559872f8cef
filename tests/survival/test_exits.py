"""A training that is complete ends with 0, and one that ends with a reason with its own code: never with 134.

Gloo's threads let go of the last collectives' Python objects when they get to it; one that does so while
Python ends aborts the process.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import SOAK
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.interruption import Stopped
from isc_runtime.ranks.reporting import reported
from ranks import free_port
from trainee import fork

EXITS = 5 if SOAK == 1 else 250 * SOAK  # of each kind
BATCHES = 5


def stop() -> None:
    raise Stopped(15)


def fail() -> None:
    raise IscError("The data are gone", "/the/path", "Bring them back.", ExitCode.DATA)


KINDS: dict[str, tuple[int, Callable[[], None], int]] = {  # ranks, how they end, and their exit code
    "alone": (1, lambda: None, 0),
    "complete": (2, lambda: None, 0),
    "sys.exit": (2, sys.exit, 0),
    "asked to stop": (2, stop, 143),
    "an error": (2, fail, ExitCode.DATA),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_many_exits_are_as_they_should_be(kind: str, tmp_path: Path) -> None:
    ranks, _, code = KINDS[kind]
    for number in range(EXITS):
        port = free_port()
        log = tmp_path / f"{number}.txt"
        children = [fork(partial(work, kind, rank, port), log) for rank in range(ranks)]
        assert [child.wait() for child in children] == [code] * ranks, f"exit {number}: {log.read_text()}"
        for child in children:
            os.close(child.says)
    print(f"{kind}: {EXITS} exits of {ranks} rank{'s' * (ranks > 1)}, all with {int(code)}")


def work(kind: str, rank: int, port: str, tell: Callable[[str], None]) -> None:
    """A short training, and an end with all that Python does at its end."""
    atexit._clear()  # what belongs to the tests themselves
    ranks, ends, _ = KINDS[kind]
    if ranks > 1:
        variables = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
        os.environ.update(variables, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    code: object = 0
    try:
        with reported(), process_group(Environment.read(), 60, 60) as group:
            for batch in range(BATCHES):
                group.sum(torch.ones(1000))
                group.pulse(batch)
            ends()
    except SystemExit as wish:
        code = wish.code
    ctypes.pythonapi.Py_Exit(code or 0)
