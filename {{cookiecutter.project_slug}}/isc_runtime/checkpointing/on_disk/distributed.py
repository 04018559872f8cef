"""What a folder of torch.distributed.checkpoint holds, wherever it is from: read whole, and as data."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from isc_runtime.checkpointing.on_disk.foreign_folder import linked
from isc_runtime.checkpointing.on_disk.untrusted import plain_file, plain_size
from isc_runtime.ranks.shard_metadata import METADATA, read_metadata


def read_distributed(folder: Path, trust_pickle: bool = False) -> dict[str, Any]:
    """The state in a folder, on the CPU, whatever number of ranks has written it.

    Args:
        folder: with `.metadata` and the files that this names.
        trust_pickle: whether what is no tensor may run code.

    Raises:
        Exception: of many kinds: it is not what torch writes, or it asks for code to be run and may not.
    """
    files = {
        item.name: plain_size(linked(folder / item.name)) for item in os.scandir(folder) if item.is_file()
    }
    metadata = read_metadata(folder, files, is_ours=False)
    places: Mapping[MetadataIndex, _StorageInfo] = metadata.storage_data
    state: dict[str, Any] = {}
    for name, kind in metadata.state_dict_metadata.items():
        if isinstance(kind, TensorStorageMetadata):
            state[name] = _tensor(folder, name, kind, places)
        else:
            content = _content(folder, places[MetadataIndex(name)])
            state[name] = torch.load(content, map_location="cpu", weights_only=not trust_pickle)
    return _nested(state, metadata.planner_data or {})


class _Place(dict[str | int, Any]):
    """A dict or a list that torch has made flat, and nothing that was saved as it is."""


def _content(folder: Path, place: _StorageInfo) -> io.BytesIO:
    with plain_file(linked(folder / place.relative_path)) as stream:
        stream.seek(place.offset)
        return io.BytesIO(stream.read(place.length))


def _tensor(
    folder: Path, name: str, kind: TensorStorageMetadata, places: Mapping[MetadataIndex, _StorageInfo]
) -> Tensor:
    """Of all its parts."""
    whole = torch.empty(kind.size, dtype=kind.properties.dtype)
    for chunk in kind.chunks:
        content = _content(folder, places[MetadataIndex(name, chunk.offsets)])
        part = torch.load(content, map_location="cpu", weights_only=True)
        if not isinstance(part, Tensor) or part.shape != chunk.sizes or part.dtype != whole.dtype:
            raise ValueError(f"a part of {name} is not what {METADATA} says")
        area = tuple(slice(a, a + b) for a, b in zip(chunk.offsets, chunk.sizes, strict=True))
        whole[area] = part
    return whole


def _nested(state: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """A flat state as it was before torch had made it flat."""
    root = _Place()
    for name, value in state.items():
        *outer, last = paths.get(name, (name,))
        node = root
        for key in outer:
            node = node.setdefault(key, _Place())
            if not isinstance(node, _Place):
                raise ValueError(f"{METADATA} puts {name} into something else")
        node[last] = value
    return {str(key): _with_lists(value) for key, value in root.items()}


def _with_lists(node: Any) -> Any:
    """Numbers among the keys of a place mean a list: torch makes texts of those of a dict."""
    if not isinstance(node, _Place):
        return node
    inner = {key: _with_lists(value) for key, value in node.items()}
    places = sorted(key for key in inner if isinstance(key, int))
    return [inner[place] for place in places] if places and len(places) == len(inner) else inner
