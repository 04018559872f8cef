"""Bytes that a power cut does not take."""

from __future__ import annotations

import errno
import os


def sync(descriptor: int) -> None:
    """Waits until a file's bytes have left the drive's own cache too, where macOS's fsync leaves them.

    Raises:
        OSError: they could not be written.
    """
    import fcntl  # Windows has none, and must get as far as the line that refuses it

    if whole := getattr(fcntl, "F_FULLFSYNC", None):
        try:
            fcntl.fcntl(descriptor, whole)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise  # else the file system has no such call: a network's, say
    os.fsync(descriptor)
