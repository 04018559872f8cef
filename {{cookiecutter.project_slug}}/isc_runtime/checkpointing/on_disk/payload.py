"""What the files of a verified checkpoint hold, read as data: none of them can run code.

Its checksums only say that a checkpoint is as it was written. Who wrote it, and what, is another question.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import SHARDED, Manifest
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.shards import ShardedTensors, read

FOREIGN = "Another program wrote it. Take another checkpoint; a training starts over with --fresh."


def read_state(
    entry: Entry,
    manifest: Manifest,
    sharded: ShardedTensors,
    parts: Collection[str] | None = None,
    about_to_read: Callable[[set[str]], None] = lambda _: None,
) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU.

    A whole one is mapped: a byte is copied once, to where it belongs, and the ranks of a node share what they
    read. Of a sharded one the bulk is in other files, and each rank reads its own part of them.

    Args:
        entry: the checkpoint, which must be verified.
        manifest: its own.
        sharded: what has one of these becomes this rank's shard, and all else a whole tensor.
        parts: of the state, that are read; those that are not there are left out. None: all.
        about_to_read: called with the names of the files with shards that are read next.

    Raises:
        IscError: it is not what this project writes, or asks for code to be run.
    """
    is_sharded = manifest.details.get("format") == SHARDED
    try:
        with path_for_torch(entry.payload) as path:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=not is_sharded)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise TypeError("it is no dict of parts")
        if parts is not None:
            state = {name: state[name] for name in parts if name in state}
        if is_sharded:
            files = {name: int(file["size"]) for name, file in manifest.files.items()}
            state = read(state, entry.payload.parent, files, sharded, about_to_read)
    except IscError:  # of `about_to_read`
        raise
    except Exception as error:  # of all kinds: torch stumbles over what it did not write in many ways
        raise _refused(error, entry) from None
    return dict(state)


@contextlib.contextmanager
def path_for_torch(file: Path) -> Iterator[str]:
    """A path of a file that torch can map: in a C locale Python's own is no UTF-8, which torch refuses.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        str(file).encode()
        yield str(file)
        return
    except UnicodeEncodeError:
        descriptor = os.open(file, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _refused(error: Exception, entry: Entry) -> IscError:
    reason = " ".join(str(error).split())
    asked = re.search(r"Unsupported (?:global|class|operand).*?([\w.]+\.[\w.]+)|asks for ([\w.]+)", reason)
    if isinstance(error, OSError):
        what, hint = "A checkpoint cannot be read", "Look at its disk and its permissions."
    elif isinstance(error, MemoryError) or "allocate memory" in reason:
        what, hint = "A checkpoint cannot be read", "There is too little memory for it here."
    elif isinstance(error, pickle.UnpicklingError):
        reason = f"it asks for {asked[1] or asked[2]}" if asked else "it is no plain data"
        what, hint = "The checkpoint holds what is not safe to load", FOREIGN
    else:
        what, hint = "A checkpoint is not one of this project", FOREIGN
    reason = reason if reason and what.endswith("load") else f"{type(error).__name__}: {reason[:200]}"
    return IscError(f"{what} ({reason})", entry.path, hint, ExitCode.CHECKPOINT)
