"""Bytes that are really on the disk.

A rename is atomic only for those who look at a running machine. After a power cut it may have reached the
disk before the bytes it renamed, so every file is fsynced before it is named, and the directory after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

from isc_runtime.disk import sync

PROBE_PREFIX = ".isc-probe-"
TEMPORARY_SUFFIX = ".temp"  # cycling_utils' too


NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what is said where directories cannot be synced


def sync_file(file: Path) -> None:
    """Waits until a file's bytes are on the disk. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        raise _of(file, error) from None
    finally:
        os.close(descriptor)


def _of(file: Path, error: OSError) -> OSError:
    """The same error with the path: of what is written to a descriptor the system does not say it."""
    return OSError(error.errno, error.strerror or str(error), str(file))


def sync_directory(directory: Path) -> None:
    """Makes what is in a directory durable, and what was taken away: as far as its file system can.

    Some of FUSE and of networks have no such call. What they promise there nobody can say.

    Raises:
        OSError: it failed.
    """
    try:
        sync_file(directory)
    except OSError as error:
        if error.errno not in NO_SYNC or not directory.is_dir():
            raise


def write_durably(file: Path, content: bytes) -> None:
    """Writes a file so that at any instant, power cuts included, it is there whole or not at all.

    Raises:
        OSError: it could not be written; no temporary file is left.
    """
    temporary = file.with_name(file.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            sync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _of(file, error) from None
    sync_directory(file.parent)


def link_durably(link: Path, target: str, through: Path | None = None) -> None:
    """Points a symlink to `target`, atomically and durably, whatever it pointed to before.

    Args:
        link: the symlink.
        target: what it says.
        through: the folder in which it comes about before it gets its name; by default that of the link.

    Raises:
        OSError: it could not be written, or something else than a link has its name: that may be the only
            copy of a checkpoint.
    """
    if os.path.lexists(link) and not link.is_symlink():
        raise FileExistsError(errno.EEXIST, "what has the name of the link is no link", str(link))
    temporary = (through or link.parent) / f"{link.name}_temp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_directory(link.parent)


def probe(directory: Path) -> None:
    """Does to a directory all that a save does: a file and a symlink are written, synced, renamed, read
    back and removed.

    Raises:
        OSError: one of these failed; nothing is left behind.
    """
    for is_last in (False, False, True):
        try:
            return _probe_once(directory)
        except FileNotFoundError:  # another training tidied up here, and that was a probe for it
            if is_last or not directory.is_dir():
                raise


def _probe_once(directory: Path) -> None:
    token = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    file, link = directory / token, directory / f"{token}-link"
    try:
        write_durably(file, token.encode())
        link_durably(link, file.name)
        if link.read_bytes() != token.encode():
            raise OSError(None, "what was read back is not what was written", str(file))
    finally:
        for path in (link, link.with_name(link.name + "_temp"), file):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    sync_directory(directory)
