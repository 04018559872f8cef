"""What a command prints is its answer: to a reader who leaves, to nobody, or to a disk that is full."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from isc_runtime.errors import IscError
from isc_runtime.standard_streams import open_what_is_closed


class _Unsaid(OSError):
    """What was printed could not be written."""


class _Answer:
    """A stream whose errors are told from those of all other files.

    Args:
        stream: where it goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text. Raises BrokenPipeError, _Unsaid."""
        with _told():
            return self._stream.write(text)

    def flush(self) -> None:
        """Hands on what was written. Raises BrokenPipeError, _Unsaid."""
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _Unsaid(error.errno, error.strerror) from None


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Around a command. The block ends early, without an error, where a reader has left, as `head` does.

    Whoever has closed standard output wants no answer, and gets the exit code alone.

    Raises:
        IscError: what was printed could not be written.
    """
    open_what_is_closed()
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # not every terminal can show every name
    answer = sys.stdout = cast(TextIO, _Answer(stream))
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_what_is_left(stream)
    except _Unsaid as error:
        _drop_what_is_left(stream)
        hint = "What was asked for may be done. Make room there, and look."
        raise IscError(f"The answer cannot be written ({error.strerror})", "standard output", hint) from None
    finally:
        if sys.stdout is answer:
            sys.stdout = stream


def _drop_what_is_left(stream: TextIO) -> None:
    """So that it does not fail once more when Python ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
