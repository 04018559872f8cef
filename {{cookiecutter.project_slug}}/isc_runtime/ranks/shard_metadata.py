"""`.metadata`, which says where in the files of a sharded checkpoint a part of a tensor is, read as data.

torch writes it as a pickle, and whoever unpickles runs what the file asks for. Here nothing is called that
it names: each class that torch writes into it becomes a bare record, all else is refused, and torch's own
objects are made of the records when every field was looked at.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

METADATA = ".metadata"  # torch's name for it
OF_TORCH = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath",),  # the checkpoint's own, which nobody reads
    "pathlib._local": ("PosixPath",),  # as Python 3.13 calls it
}
# What is no tensor lies beside the tensors in those of other programs: this project writes it elsewhere.
OF_OTHERS = {"torch.distributed.checkpoint.metadata": ("BytesStorageMetadata",)}

WRITTEN = (
    *(
        pickle.PROTO,
        pickle.FRAME,
        pickle.STOP,
        pickle.MARK,
        pickle.MEMOIZE,
        pickle.BINGET,
        pickle.LONG_BINGET,
    ),
    *(
        pickle.NONE,
        pickle.NEWTRUE,
        pickle.NEWFALSE,
        pickle.BININT,
        pickle.BININT1,
        pickle.BININT2,
        pickle.LONG1,
    ),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT),
    *(pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.APPEND, pickle.APPENDS),
    *(pickle.SETITEM, pickle.SETITEMS, pickle.STACK_GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD),
)


class Record:
    """What the pickle wants to be an object: what it is made of, and its state."""

    __slots__ = ("parts", "state")

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __getitem__(self, name: str) -> Any:
        return self.state[name]


class _Known(dict[int, Callable[[Any], None]]):
    """What a pickle may ask for, by its code: all that Python writes of these classes, and no more."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"{METADATA} has the code {code:#x}, which torch does not write there")


class _Reader(pickle._Unpickler):
    """Makes records, and a class of its own for each name: what one pickle does to it no other one sees.

    It is the standard library's in Python, not the one in C, which makes as much room as a pickle asks for.
    A second for thirty thousand parts is the price.
    """

    dispatch = _Known({code[0]: pickle._Unpickler.dispatch[code[0]] for code in WRITTEN})

    def __init__(self, content: bytes, is_ours: bool) -> None:
        super().__init__(io.BytesIO(content))
        self.is_ours = is_ours
        self.kinds: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Instead of looking it up.

        Raises:
            pickle.UnpicklingError: it is nothing that torch writes into this file.
        """
        if (module, name) == ("torch", "Size"):
            return tuple  # built in: nothing can be changed in it
        found = vars(torch).get(name) if module == "torch" else None
        if isinstance(found, torch.dtype):
            return found
        names = OF_TORCH.get(module, ()) + (() if self.is_ours else OF_OTHERS.get(module, ()))
        if name in names:
            return self.kinds.setdefault(name, type(name, (Record,), {"__slots__": ()}))
        raise pickle.UnpicklingError(f"{METADATA} asks for {module}.{name}")


def read_metadata(directory: Path, files: Mapping[str, int], is_ours: bool = True) -> Metadata:
    """Reads what torch.distributed.checkpoint wrote of the tensors in a checkpoint, running no code.

    Args:
        directory: of the checkpoint.
        files: the sizes in bytes of those in it that are verified; no others are read.
        is_ours: False for one of another program: what is no tensor may be in it, too, and `planner_data`
            says where in a state each thing belongs, as keys of dicts and places in lists.

    Raises:
        OSError: it cannot be read.
        pickle.UnpicklingError: it asks for what torch does not write into it.
        ValueError: it is not what torch writes, or of other files.
    """
    if METADATA not in files:
        raise ValueError(f"the manifest does not name {METADATA}")
    content = (directory / METADATA).read_bytes()
    try:
        return _metadata(_Reader(content, is_ours), files)
    except (pickle.UnpicklingError, ValueError):
        raise
    except Exception as error:  # a stranger's pickle can make Python stumble in any way
        raise ValueError(f"{METADATA} is not what torch writes ({type(error).__name__})") from None


def _metadata(reader: _Reader, files: Mapping[str, int]) -> Metadata:
    found = _fields(reader, reader.load(), "Metadata")
    most = sum(files.values())
    return Metadata(
        {_text(key): _entry(reader, value, most) for key, value in found["state_dict_metadata"].items()},
        planner_data=None if reader.is_ours else _paths(found.state.get("planner_data")),
        storage_data=dict(
            _place(reader, index, info, files) for index, info in found["storage_data"].items()
        ),
    )


def _fields(reader: _Reader, value: Any, kind: str) -> Record:
    if type(value) is not reader.kinds.get(kind):
        raise ValueError(f"{METADATA} has something else where a {kind} belongs")
    return value


def _paths(found: Any) -> dict[str, tuple[str | int, ...]]:
    """Where in a state each thing belongs; what is not named there has its name for a key."""
    paths = found.items() if found is not None else ()
    if any(not isinstance(path, tuple) or not path for _, path in paths):
        raise ValueError(f"{METADATA} has something else where a place belongs")
    return {
        _text(name): tuple(one if type(one) is int else _text(one) for one in path) for name, path in paths
    }


def _entry(reader: _Reader, value: Any, most: int) -> TensorStorageMetadata | BytesStorageMetadata:
    if type(value) is reader.kinds.get("BytesStorageMetadata"):
        return BytesStorageMetadata()
    return _tensor(reader, value, most)


def _tensor(reader: _Reader, value: Any, most: int) -> TensorStorageMetadata:
    record = _fields(reader, value, "TensorStorageMetadata")
    dtype = _fields(reader, record["properties"], "TensorProperties").state[0]
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{METADATA} has something else where a dtype belongs")
    size = _counts(record["size"])
    chunks = []
    for chunk in record["chunks"]:
        fields = _fields(reader, chunk, "ChunkStorageMetadata")
        chunks.append(ChunkStorageMetadata(_counts(fields["offsets"]), _counts(fields["sizes"])))
    is_whole = sum(math.prod(chunk.sizes) for chunk in chunks) == math.prod(size)
    is_inside = all(
        len(chunk.offsets) == len(chunk.sizes) == len(size)
        and all(a + b <= c for a, b, c in zip(chunk.offsets, chunk.sizes, size, strict=True))
        for chunk in chunks
    )
    if not is_whole or not is_inside or math.prod(size) * dtype.itemsize > most:
        raise ValueError(f"{METADATA} has a tensor that its parts do not make")
    return TensorStorageMetadata(TensorProperties(dtype), size, chunks)


def _place(
    reader: _Reader, index: Any, info: Any, files: Mapping[str, int]
) -> tuple[MetadataIndex, _StorageInfo]:
    at, where = _fields(reader, index, "MetadataIndex"), _fields(reader, info, "_StorageInfo")
    name, (offset, length) = where["relative_path"], _counts((where["offset"], where["length"]))
    if not isinstance(name, str) or offset + length > files.get(name, 0):
        raise ValueError(f"{METADATA} names what is not in the manifest")
    if where.state.get("transform_descriptors"):
        raise ValueError(f"{METADATA} has compressed tensors")  # this project writes none
    begin = at.state.get("offset")  # what is no tensor has none
    index_of = MetadataIndex(_text(at["fqn"]), None if begin is None else _counts(begin))
    return index_of, _StorageInfo(name, offset, length)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{METADATA} has something else where a name belongs")
    return value


def _counts(values: Any) -> torch.Size:
    """Whole numbers, none of them negative."""
    if not isinstance(values, tuple) or not all(type(one) is int and one >= 0 for one in values):
        raise ValueError(f"{METADATA} has something else where sizes belong")
    return torch.Size(values)
