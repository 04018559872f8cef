"""Ends the processes of a rehearsal when the rehearsal itself is gone, SIGKILL included.

    python -I -S warden.py TOKEN [DIRECTORY ...]     # standard input is open while the rehearsal lives

Also the one place that knows how to find them. Every process of a rehearsal has its token in the environment,
and so has what it starts: torchrun puts ranks into sessions of their own, so that no process group holds all
of them. Standard library only, and nothing of this project.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

VARIABLE = "ISC_REHEARSAL"
PROCESSES = Path("/proc")
PATIENCE = 60.0  # seconds for killed processes to vanish: a machine that swaps is slow even at that


def processes_of(token: str) -> list[int]:
    """The processes with this token in their environment, this one not counted (Linux; elsewhere none)."""
    mark = f"{VARIABLE}={token}".encode()
    found = []
    for path in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or another user's
            if mark in (path / "environ").read_bytes().split(b"\0") and int(path.name) != os.getpid():
                found.append(int(path.name))
    return sorted(found)


def end(token: str) -> list[int]:
    """Kills them, until none is left that could start another. Returns those that do not vanish."""
    deadline = time.monotonic() + PATIENCE
    while (left := processes_of(token)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    return left


def main(token: str, *directories: str) -> None:
    """Waits for the rehearsal's word that all is done, or for its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == b"done":
        return
    end(token)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
