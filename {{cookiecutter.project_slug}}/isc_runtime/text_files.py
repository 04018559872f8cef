"""Files that a person has written, whatever is in them."""

from __future__ import annotations

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
