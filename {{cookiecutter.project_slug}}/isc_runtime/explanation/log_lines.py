"""A log as clean lines: any size, any encoding, terminal escapes, cut at any byte. Memory is bounded."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHUNK = 1 << 16  # bytes
LONGEST = 2000  # characters of a line that are looked at
# Colours and cursor movements, titles of windows, and the escapes of two characters (ECMA-48).
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-Z\\^-~])")
GZIP = b"\x1f\x8b"
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Line(NamedTuple):
    """A line of a log.

    Attributes:
        number: from 1; parts that a carriage return separates, as progress bars have, share one.
        text: clean: printable characters only, without white space at its end.
        is_whole: whether its end is there; the last line of a log that was cut has none.
    """

    number: int
    text: str
    is_whole: bool


def clean(text: str) -> str:
    """`text` without terminal escapes, and with a blank for each character that cannot be printed."""
    text = text[:LONGEST]
    if not text.isprintable():
        text = ESCAPES.sub("", text)
        text = "".join(character if character.isprintable() else " " for character in text)
    return text.rstrip()


def read_lines(file: Path) -> Iterator[Line]:
    """The lines of a log that hold anything, from the first to the last.

    Raises:
        OSError: it cannot be read.
    """
    number, rest = 1, ""
    for chunk in _decoded(file):
        *whole, last = chunk.split("\n")
        for piece in whole:
            yield from _parts(number, rest + piece, True)
            number, rest = number + 1, ""
        rest += last
        if "\r" in rest:
            done, _, rest = rest.rpartition("\r")
            yield from _parts(number, done, True)
        rest = rest[: 2 * LONGEST]  # a file without line ends must not fill the memory
    yield from _parts(number, rest, False)


def _parts(number: int, text: str, is_whole: bool) -> Iterator[Line]:
    for part in text.split("\r"):
        if cleaned := clean(part):
            yield Line(number, cleaned, is_whole)


def _decoded(file: Path) -> Iterator[str]:
    # A packed log that is cut short, or damaged, has said what could be read of it.
    with _opened(file) as stream, contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):
        chunk = stream.read1(CHUNK)  # read() would lose what comes before the damage
        encoding = next((name for mark, name in MARKS if chunk.startswith(mark)), "utf-8")
        decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        while chunk:
            yield decoder.decode(chunk)
            chunk = stream.read1(CHUNK)
        yield decoder.decode(b"", final=True)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[io.BufferedIOBase]:
    """A log as it was written, packed by gzip or not."""
    with file.open("rb") as stream:
        if stream.peek(len(GZIP)).startswith(GZIP):
            with gzip.open(stream) as unpacked:
                yield unpacked
        else:
            yield stream
