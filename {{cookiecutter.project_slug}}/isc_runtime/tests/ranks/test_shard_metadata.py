"""`.metadata` of a sharded checkpoint: what torch writes is read, all else refused, and nothing called."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.state_dict_saver import save

from isc_runtime.ranks.shard_metadata import METADATA, read_metadata
from isc_runtime.ranks.shards import DIVIDED, MARK, ShardedTensors, read

DTYPES = sorted(
    {value for value in vars(torch).values() if isinstance(value, torch.dtype) and value.itemsize}, key=str
)


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two tensors, one of them in no dimension, as torch writes them."""
    save({"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor(7)}, checkpoint_id=tmp_path)
    return tmp_path


def change(directory: Path, how: Callable[[Any], object]) -> None:
    file = directory / METADATA
    metadata = pickle.loads(file.read_bytes())
    how(metadata)
    file.write_bytes(pickle.dumps(metadata))


def test_it_says_what_torch_s_own_reader_says(saved: Path) -> None:
    ours, torchs = read_metadata(saved, sizes(saved)), FileSystemReader(saved).read_metadata()
    assert ours.storage_data == torchs.storage_data
    assert ours.state_dict_metadata.keys() == torchs.state_dict_metadata.keys()
    for key, value in ours.state_dict_metadata.items():
        other = torchs.state_dict_metadata[key]
        assert (value.size, value.chunks) == (other.size, other.chunks)  # type: ignore[union-attr]
        assert value.properties.dtype is other.properties.dtype  # type: ignore[union-attr]


def test_tensors_come_back_bit_for_bit(saved: Path) -> None:
    state = read({"x": [{MARK: "a"}], "y": {MARK: "b"}}, saved, sizes(saved), ShardedTensors({}))
    assert torch.equal(state["x"][0], torch.arange(12.0).reshape(3, 4))
    assert state["y"] == 7


def test_a_mark_may_hold_what_is_whole_or_say_how_its_tensor_is_divided(saved: Path) -> None:
    marks = {"x": {MARK: torch.ones(2)}, "y": {MARK: "a", DIVIDED: 1}}
    state = read(marks, saved, sizes(saved), ShardedTensors({}))
    assert torch.equal(state["x"], torch.ones(2))
    assert torch.equal(state["y"], torch.arange(12.0).reshape(3, 4))  # nothing is in shards here
    for wrong in (2, -1, "all", [0]):
        with pytest.raises(ValueError, match="which it has not"):
            read({"y": {MARK: "a", DIVIDED: wrong}}, saved, sizes(saved), ShardedTensors({}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_known(saved: Path, dtype: torch.dtype) -> None:
    def replace(metadata: Any) -> None:
        metadata.state_dict_metadata["b"].properties = TensorProperties(dtype)

    change(saved, replace)
    found = read_metadata(saved, sizes(saved)).state_dict_metadata["b"]
    assert found.properties.dtype is dtype  # type: ignore[union-attr]


@pytest.mark.parametrize("protocol", [4, 5])
def test_each_protocol_that_python_writes_by_itself_is_read(saved: Path, protocol: int) -> None:
    metadata = FileSystemReader(saved).read_metadata()
    (saved / METADATA).write_bytes(pickle.dumps(metadata, protocol))
    assert read_metadata(saved, sizes(saved)).storage_data == metadata.storage_data


class Calls:
    """Unpickled, it calls something."""

    def __init__(self, called: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (called, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("called", [eval, getattr, __import__, torch.load, torch.Tensor, Path.mkdir, print])
def test_what_torch_does_not_write_is_not_even_looked_up(saved: Path, called: Callable[..., Any]) -> None:
    change(saved, lambda metadata: setattr(metadata, "planner_data", Calls(called, "x")))
    with pytest.raises(pickle.UnpicklingError, match="asks for"):
        read_metadata(saved, sizes(saved))


def test_torch_s_own_classes_are_out_of_reach(saved: Path) -> None:
    """A pickle may set attributes of whatever it can name; those of a class are the whole process's."""
    metadata = "torch.distributed.checkpoint.metadata"
    named = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (metadata, "Metadata"))
    state = b"N}\x8c\x07version\x8c\x04evils\x86b"  # no attributes of its own, and these of its class
    pickled = b"\x80\x04" + named + b"\x93" + state + b"."
    (saved / METADATA).write_bytes(pickled)
    with pytest.raises(ValueError, match="not what torch writes"):
        read_metadata(saved, sizes(saved))
    assert Metadata.version is None
    pickle.loads(pickled)  # as torch itself would
    assert Metadata.version == "evil"
    Metadata.version = None


def first(metadata: Any) -> tuple[Any, Any]:
    return metadata.state_dict_metadata["a"], metadata.storage_data[MetadataIndex("a", [0, 0])]


LIES: dict[str, Callable[[Any], object]] = {
    "a file out of the directory": lambda it: setattr(first(it)[1], "relative_path", "../x"),
    "an absolute file": lambda it: setattr(first(it)[1], "relative_path", "/dev/zero"),
    "a file that is not in the manifest": lambda it: setattr(first(it)[1], "relative_path", "__9_9.distcp"),
    "no file": lambda it: setattr(first(it)[1], "relative_path", 5),
    "more bytes than there are": lambda it: setattr(first(it)[1], "length", 2**40),
    "a negative offset": lambda it: setattr(first(it)[1], "offset", -1),
    "a compression": lambda it: setattr(first(it)[1], "transform_descriptors", ["stream.zstd/1"]),
    "a tensor of a petabyte": lambda it: setattr(first(it)[0], "size", torch.Size([2**48, 4])),
    "a tensor without parts": lambda it: setattr(first(it)[0], "chunks", []),
    "a part that lies outside": lambda it: setattr(first(it)[0].chunks[0], "offsets", torch.Size([1, 0])),
    "a part of other dimensions": lambda it: setattr(first(it)[0].chunks[0], "offsets", torch.Size([0])),
    "no size": lambda it: setattr(first(it)[0], "size", None),
    "no dtype": lambda it: setattr(first(it)[0].properties, "dtype", torch.Size([4])),
    "something else for a tensor": lambda it: it.state_dict_metadata.update(a=torch.Size([3, 4])),
    "a number for a name": lambda it: it.state_dict_metadata.update({5: first(it)[0]}),
    "no tensors": lambda it: setattr(it, "state_dict_metadata", None),
    "no places": lambda it: setattr(it, "storage_data", [1, 2]),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_is_refused_before_anything_is_read(saved: Path, lie: str) -> None:
    change(saved, LIES[lie])
    with pytest.raises(ValueError, match=METADATA):
        read_metadata(saved, sizes(saved))


@pytest.mark.parametrize("content", [b"", b".", b"\x80", b"\x80\x04N.", b"garbage", b"\x80\x02Pother\n."])
def test_what_is_no_metadata_is_refused(saved: Path, content: bytes) -> None:
    (saved / METADATA).write_bytes(content)
    with pytest.raises((ValueError, pickle.UnpicklingError), match=METADATA):
        read_metadata(saved, sizes(saved))
    with pytest.raises(ValueError, match="does not name"):
        read_metadata(saved, {})


def test_every_bit_of_it_may_be_wrong(saved: Path) -> None:
    """It is read, or refused: nothing hangs, and nothing ends the process."""
    good, known = (saved / METADATA).read_bytes(), sizes(saved)
    for position in range(len(good)):
        content = bytearray(good)
        content[position] ^= 1 << position % 8
        (saved / METADATA).write_bytes(content)
        with contextlib.suppress(ValueError, pickle.UnpicklingError):
            read_metadata(saved, known)


@pytest.mark.parametrize(
    "code", [b"r\xff\xff\xff\x7f", b"\x96" + b"\xff" * 7 + b"\x00", b"\x8b\xff\xff\xff\x7f"]
)
def test_no_room_is_made_for_what_is_not_there(saved: Path, code: bytes) -> None:
    """The standard library's reader in C makes gigabytes of room for an index, and for bytes to come."""
    (saved / METADATA).write_bytes(b"\x80\x04N" + code + b".")
    with pytest.raises(pickle.UnpicklingError, match="has the code"):
        read_metadata(saved, sizes(saved))
