"""A folder of checkpoints belongs to one training at a time: a lock that the kernel lets go of, whatever
kills its holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from isc_runtime.errors import ExitCode, IscError

LOCK_NAME = ".isc-lock"
PATIENCE = 15.0  # seconds: ranks whose torchrun was killed end within one, or save first
INTERVAL = 0.1
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

logger = logging.getLogger("checkpoint")


class Lock:
    """The lock of a folder, held as long as this object lives and its process too. See `take_lock`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._finalizer = weakref.finalize(self, os.close, descriptor)

    def forget(self) -> None:
        """In a child that was forked: it must not go on holding what its parent has let go of."""
        self._finalizer()


_held: weakref.WeakValueDictionary[tuple[int, int], Lock] = weakref.WeakValueDictionary()


def take_lock(directory: Path, busy: Callable[[], None] = lambda: None) -> Lock | None:
    """Takes the lock of a folder, and waits a while for another training that is about to end.

    A process that has it already gets the same one once more.

    Args:
        directory: the folder.
        busy: called while it waits.

    Returns:
        The lock; None where the file system has none: then only the fence keeps two trainings apart.

    Raises:
        IscError: another training has it, and keeps it; or something else has its name.
        OSError: the file of the lock cannot be opened.
    """
    path = directory / LOCK_NAME
    # Read-only, so that the file system itself can become so; NFS locks only what is open for writing.
    try:
        return _take(path, os.O_RDONLY, busy)
    except OSError as error:
        if error.errno == errno.EBADF:
            with contextlib.suppress(OSError):
                return _take(path, os.O_RDWR, busy)
        elif error.errno in (errno.EISDIR, errno.ELOOP):
            what, hint = "This is a folder or a link, and no lock", "Move it away: no training has made it."
            raise IscError(what, path, hint, ExitCode.UNFIT) from None
        elif error.errno not in NO_LOCKS:
            raise
        logger.warning("[LOCK] %s has no locks (%s): start one training at a time", directory, error.strerror)
        return None


def _take(path: Path, mode: int, busy: Callable[[], None]) -> Lock:
    descriptor = os.open(path, mode | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    status = os.fstat(descriptor)
    if (lock := _held.get((status.st_dev, status.st_ino))) is not None:
        os.close(descriptor)
        return lock
    try:
        _wait(descriptor, path, busy)
    except BaseException:
        os.close(descriptor)
        raise
    with contextlib.suppress(OSError):  # it only says who this is
        path.write_bytes(_own_words())
    lock = _held[(status.st_dev, status.st_ino)] = Lock(descriptor)
    return lock


def _wait(descriptor: int, path: Path, busy: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE
    is_said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise IscError(
                    f"Another training works in this checkpoint directory ({_words_of(descriptor)})",
                    path.parent,
                    "Nothing was changed. Let it come to its end, or stop it with kill and that pid; "
                    "or start this one in another folder.",
                    ExitCode.TAKEN,
                ) from None
        if not is_said:
            words = _words_of(descriptor)
            logger.info("[LOCK] %s is in use (%s): waiting up to %g s", path.parent, words, PATIENCE)
            is_said = True
        busy()
        time.sleep(INTERVAL)


def _own_words() -> bytes:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()


def _words_of(descriptor: int) -> str:
    """Who holds it, in words; the file may hold anything."""
    try:
        said = json.loads(os.pread(descriptor, 1000, 0))
        words = f"pid {said['pid']:d} on {said['host']}, since {said['since']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "it does not say which"
    return words if words.isprintable() else "it does not say which"


def _after_fork() -> None:
    for lock in list(_held.values()):
        lock.forget()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)
