"""How a payload is written where the write is ours, and what went wrong where it is torch's."""

from __future__ import annotations

import contextlib
import errno
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from isc_runtime.checkpointing.on_disk.durable import PROBE_PREFIX
from isc_runtime.disk import sync
from isc_runtime.errors import ExitCode, IscError

BUFFER = 2**20  # bytes
OF_THE_DISK = re.compile(r"PytorchStreamWriter|file write failed|open file|unexpected pos|basic_ios|iostream")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output:
    """A file that is written, hashed on the way, flushed and synced through one descriptor.

    An error of the disk is told to the descriptor that wrote: whoever opens the file again to sync it may not
    hear of it. And torch, to which an error is raised in the middle of its work, raises others after it: the
    first one is kept.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        import xxhash

        self._path = path
        self._stream = path.open("wb", buffering=BUFFER)
        self._digest = xxhash.xxh3_128()
        self.error: OSError | None = None  # the first one, with its path

    def write(self, data: bytes) -> int:
        """Writes all of it, however often the system takes a part of it only. Raises OSError."""
        with self._noted():
            self._stream.write(data)
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Hands what was written to the system. Raises OSError."""
        with self._noted():
            self._stream.flush()

    def sync(self) -> str:
        """Waits until it is on the disk; returns the checksum of what was handed over. Raises OSError."""
        self.flush()
        with self._noted():
            sync(self._stream.fileno())
        return str(self._digest.hexdigest())

    def close(self) -> None:
        """Lets go of the file; what was not synced may be lost."""
        with contextlib.suppress(OSError):
            self._stream.close()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or OSError(error.errno, error.strerror, str(self._path))
            raise self.error from None


def write_out(path: Path, dump: Callable[[Output], object]) -> str:
    """Writes a file durably, under this name at once.

    Args:
        path: of the file.
        dump: writes what belongs into it.

    Returns:
        The xxh3-128 of what was written, as it was in memory.

    Raises:
        OSError: the system's reason, whatever `dump` has made of it.
        Exception: of `dump`.
    """
    output = Output(path)
    try:
        dump(output)
        return output.sync()
    except Exception:
        if output.error is not None:
            raise output.error from None
        raise
    finally:
        output.close()


@contextlib.contextmanager
def written_by_torch(path: Path) -> Iterator[None]:
    """Around whatever torch writes to `path`: says in words what went wrong, and spares the CRC.

    The CRC of `torch.save` takes longer than all the rest of it, and `torch.load` never looks at it: the
    manifest has a better checksum.
    """
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    except RuntimeError as error:
        raise _reason(error, path) from error
    finally:
        torch.serialization.set_crc32_options(before)


def _reason(error: RuntimeError, path: Path) -> IscError:
    """Torch writes in C++, and the system's error number is lost there: the disk is asked again."""
    words = " ".join(str(error).split())[:200]
    if not OF_THE_DISK.search(words):
        hint = "It is what is to be saved, and not the disk: look at what state() returns."
        return IscError(f"torch could not save the state ({words})", path, hint, ExitCode.SAVE)
    what, hint = words, "The disk takes other writes: look at the system's own log."
    place = next((one for one in path.parents if one.is_dir()), path)
    try:
        _try_to_write(place / f"{PROBE_PREFIX}{uuid.uuid4().hex}")
    except OSError as reason:
        is_full = reason.errno in NO_ROOM
        what = f"{reason.strerror}; {words}"
        hint = (
            "Delete what is no longer needed." if is_full else "The disk is failing: use another directory."
        )
    return IscError(f"torch could not write the file ({what})", path, hint, ExitCode.SAVE)


def _try_to_write(file: Path) -> None:
    try:
        write_out(file, lambda output: output.write(bytes(BUFFER)))
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
