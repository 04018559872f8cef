"""Standard streams that cost nobody a training: closed, on a full disk, or read by somebody who is gone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast


def open_what_is_closed() -> None:
    """Opens standard streams that are closed, onto nothing.

    The next file, a checkpoint, would get the number of one, and with it whatever a library says there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)  # which ranks inherit
            if nothing != number:
                os.close(nothing)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123  # as long as the process lives


def outlive_streams() -> None:
    """From here on nothing that this process says can fail: what cannot be written is lost."""
    open_what_is_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Outliving):
            setattr(sys, name, cast(TextIO, Outliving(stream)))


class Outliving:
    """A stream that drops what it cannot write.

    Args:
        stream: where the rest goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text, or drops it."""
        with contextlib.suppress(OSError, ValueError):  # full, closed, without a reader
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes texts, or drops them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands on what was written, or drops it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
