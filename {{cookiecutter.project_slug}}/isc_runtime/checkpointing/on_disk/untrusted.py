"""What may be a stranger's: opened only if it is a plain file, read only so far, and data, whatever it says.

Whoever can write a checkpoint can write its checksums, too. So nothing is believed for its name, its kind or
its size: a pipe would be waited on for ever, a device read for ever, a link followed out of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 2**63 - 1  # bytes of a file, steps of a training
DIGITS = len(str(LARGEST))
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def plain_size(path: Path) -> int:
    """The size in bytes of a plain file, which is not opened. Raises OSError, also if it is anything else."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind} and no plain file", str(path))
    return status.st_size


@contextlib.contextmanager
def plain_file(path: Path) -> Iterator[io.FileIO]:
    """Opens a plain file for reading, without a buffer. Raises OSError, also if it is anything else."""
    plain_size(path)  # before it is opened: opening alone can do something to a device
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with io.FileIO(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file any more", str(path))
        yield stream


def read_plain(path: Path, most: int) -> bytes:
    """What a plain file holds.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is something else than a plain file, or is larger.
    """
    content = bytearray()
    with plain_file(path) as stream:
        while len(content) <= most and (part := stream.read(most + 1 - len(content))):
            content += part
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return bytes(content)


def parse(content: bytes) -> dict[str, Any]:
    """The object in JSON, with whole numbers of 64 bits at most and nothing that is not in the standard.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(content.decode(), parse_int=_whole_number, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _whole_number(text: str) -> int:
    if len(text) > DIGITS + 1:  # to read a number takes the square of its digits
        raise ValueError("too large")
    return int(text)


def _refuse(text: str) -> None:
    raise ValueError(text)


def is_file_name(name: object) -> bool:
    """Whether this names a file in whatever directory, and none elsewhere, and can be printed as it is."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or not name.isprintable():
        return False
    try:
        return len(os.fsencode(name)) <= 255
    except UnicodeEncodeError:
        return False


def is_count(value: object) -> bool:
    """Whether this is a whole number, neither negative nor larger than 64 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def is_seconds(value: object) -> bool:
    """Whether this is a number of seconds that somebody can have waited: JSON can say infinity, too."""
    return isinstance(value, int | float) and 0 <= value < 1e9
