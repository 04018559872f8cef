"""The end of a process that others wait for: said once, and nothing that is said can keep it from ending."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

PATIENCE = 5.0  # seconds for the last words: a log that nobody reads and a store that is gone get no more

_ending = threading.Lock()
_at_end: list[Callable[[int], object]] = []


def at_end(function: Callable[[int], object]) -> None:
    """Has `end` call this with the exit code, after the last words, in this process."""
    _at_end.append(function)


def _after_fork() -> None:
    """A child is another process: its end is not its parent's, and may come while that is at its own."""
    global _ending
    _ending = threading.Lock()
    _at_end.clear()


os.register_at_fork(after_in_child=_after_fork)


def end(code: int, *last_words: Callable[[], int | None]) -> NoReturn:
    """Ends this process at once: a regular exit would wait for threads, and for collectives without partners.

    The training and its watch may come here at the same time, with the same reason. The first one speaks; the
    other one waits for the end.

    Args:
        code: the exit code.
        last_words: called in this order; what one of them raises is ignored, and a number that it returns
            replaces the exit code.
    """
    while not _ending.acquire(blocking=False):
        time.sleep(PATIENCE)
    final = [code]

    def lose_patience() -> None:
        time.sleep(PATIENCE)
        os._exit(final[0])

    with contextlib.suppress(Exception):  # without memory for a thread there is no limit, but still an end
        threading.Thread(target=lose_patience, daemon=True).start()
    for words in (*last_words, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(BaseException):  # a full disk, a closed pipe, a signal: the end comes first
            better = words()
            final[0] = final[0] if better is None else better
    for function in _at_end:
        with contextlib.suppress(BaseException):
            function(final[0])
    os._exit(final[0])


def say(line: str) -> None:
    """Writes a line to stderr at once: other ranks write to the same log. Raises OSError, ValueError."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
