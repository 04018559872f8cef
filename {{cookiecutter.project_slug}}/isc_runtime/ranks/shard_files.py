"""The files of a sharded checkpoint, of which a rank reads what it needs, right to where it belongs.

torch's own reader loads each part as a whole, as the rank that wrote it had it, and copies from it. On
another number of ranks each of them would read nearly all, and on the same number all is copied twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.utils import _create_file_view

Places = Mapping[MetadataIndex, _StorageInfo]  # where in which file a part is


def files_of(plan: LoadPlan, places: Places) -> set[str]:
    """The names of the files that a plan reads from."""
    return {places[item.storage_index].relative_path for item in plan.items}


def read_parts(plan: LoadPlan, planner: LoadPlanner, places: Places, directory: Path) -> None:
    """Fills the tensors of a planner with what its plan says.

    Raises:
        OSError: a file cannot be read.
        Exception: of many kinds: a file holds something else. No code that it may hold is run.
    """
    for name in sorted(files_of(plan, places)):
        items = [item for item in plan.items if places[item.storage_index].relative_path == name]
        with (directory / name).open("rb", buffering=0) as file:
            for item in sorted(items, key=lambda item: places[item.storage_index].offset):
                target = planner.resolve_tensor(item).detach()
                _read(file, places[item.storage_index], item, target)
                planner.commit_tensor(item, target)


def _read(file: FileIO, place: _StorageInfo, item: ReadItem, target: Tensor) -> None:
    """Reads a part of a part. torch has saved each as it saves a file."""
    view: Any = _create_file_view(file, place.offset, place.length)
    stored: Tensor = torch.load(view, map_location="meta", weights_only=True)  # its form, and where it is
    begin = getattr(stored.untyped_storage(), "_checkpoint_offset", None)
    wanted = _narrowed(stored, item)
    if wanted.shape != target.shape:
        raise ValueError(f"{item.storage_index.fqn} has not the form that .metadata says")
    is_plain = wanted.is_contiguous() and target.is_contiguous() and wanted.dtype == target.dtype
    if begin is None or not is_plain or target.device.type != "cpu":
        view.seek(0)
        target.copy_(_narrowed(torch.load(view, map_location="cpu", weights_only=True), item))
        return
    begin += wanted.storage_offset() * wanted.element_size()
    if begin + wanted.nbytes > place.length:
        raise ValueError(f"{item.storage_index.fqn} goes beyond its part of {place.relative_path}")
    if wanted.nbytes:
        memory: Any = target.view(-1).view(torch.uint8).numpy()
        _fill(file, memoryview(memory), place.offset + begin)


def _narrowed(stored: Tensor, item: ReadItem) -> Tensor:
    for dimension, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        stored = stored.narrow(dimension, begin, length)
    return stored


def _fill(file: FileIO, memory: memoryview, offset: int) -> None:
    while memory:
        count = os.preadv(file.fileno(), [memory], offset)
        if not count:
            raise EOFError(f"{file.name!r} has become shorter")
        memory, offset = memory[count:], offset + count
