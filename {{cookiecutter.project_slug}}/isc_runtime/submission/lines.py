"""Files that a person has written, whatever is in them; those of lines: requirements, Dockerfiles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 10**7  # more than any file has that a person writes


def read_bytes(file: Path) -> bytes:
    """What is in a file that a person has written.

    Raises:
        OSError: it cannot be read, or is no file: a pipe would be waited for.
        ValueError: it is too large for that.
    """
    if not file.is_file():
        file.stat()  # says why if it does not exist
        raise OSError("it is no regular file")
    if (size := file.stat().st_size) > MOST_BYTES:
        raise ValueError(f"it has {size} bytes, and {MOST_BYTES} are the most that is read")
    return file.read_bytes()


def read_text(file: Path) -> str:
    """The same as text, from UTF-8, with every line end as `\\n`. Raises OSError, ValueError."""
    return read_bytes(file).decode("utf-8").replace("\r\n", "\n")


def logical_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines without comments and blank ones, joined where they end in a backslash, and their numbers."""
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError):
        return  # missing: it is said already
    start, joined = 0, ""
    for number, line in enumerate(lines, 1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        start = start if joined else number
        joined += text.removesuffix("\\") + " "
        if not text.endswith("\\"):
            yield start, joined.strip()
            joined = ""
    if joined:
        yield start, joined.strip()
