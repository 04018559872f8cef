"""What is written through one descriptor, and what is said when the disk, or torch, does not take it."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isc_runtime.checkpointing.on_disk.manifest import checksum
from isc_runtime.checkpointing.stores import output as output_module
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.output import write_out, written_by_torch
from isc_runtime.errors import IscError
from isc_runtime.ranks.group import Group

STATE: dict[str, Any] = {"weights": torch.arange(300_000.0), "name": "a text"}


def dump(output: Any) -> None:
    torch.save(STATE, output)


class Raw(io.FileIO):
    """A disk that takes a part of each write only, and none after so many bytes.

    Attributes:
        room: bytes that it takes.
        most: of one write.
        reason: of the error after that.
    """

    room, most, reason = 10**9, 10**9, errno.ENOSPC

    def write(self, data: Any) -> int:
        taken = min(self.most, self.room, len(data))
        if not taken and len(data):
            raise OSError(self.reason, os.strerror(self.reason))
        type(self).room -= taken
        return super().write(memoryview(data).cast("B")[:taken])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[Raw]:
    """Where payloads go."""

    class Disk(Raw):
        pass

    def open_there(path: Path, mode: str, buffering: int) -> io.BufferedWriter:
        return io.BufferedWriter(Disk(str(path), "w"), buffering)

    monkeypatch.setattr(Path, "open", open_there)
    return Disk


def test_what_is_returned_is_the_checksum_of_what_was_handed_over(tmp_path: Path) -> None:
    handed = write_out(tmp_path / "x", dump)
    assert handed == checksum(tmp_path / "x")
    assert torch.equal(torch.load(tmp_path / "x", weights_only=True)["weights"], STATE["weights"])


def test_short_writes_are_gone_on_with(
    tmp_path: Path, disk: type[Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.most = 1000
    handed = write_out(tmp_path / "x", dump)
    monkeypatch.undo()
    assert handed == checksum(tmp_path / "x")


@pytest.mark.parametrize("room", [0, 100, 2**20, 1_200_000])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_the_system_s_own_reason_is_said(tmp_path: Path, disk: type[Raw], room: int, reason: int) -> None:
    disk.room, disk.reason = room, reason
    with pytest.raises(OSError, match="x") as raised:
        write_out(tmp_path / "x", dump)
    assert raised.value.errno == reason
    assert raised.value.filename == str(tmp_path / "x")


def test_it_is_synced_through_the_descriptor_that_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux tells an error of the background writing once, to who had the file open then."""
    synced: list[str] = []
    monkeypatch.setattr(output_module, "sync", lambda number: synced.append(_mode_of(number)))
    write_out(tmp_path / "x", dump)
    assert synced == ["01"]


def _mode_of(descriptor: int) -> str:
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
    return lines[lines.index("flags:") + 1][-2:]  # octal: 01 is O_WRONLY


def refuse(words: str) -> Callable[[], None]:
    def raise_it() -> None:
        raise RuntimeError(words)

    return raise_it


TORN = "inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: file write failed"


def test_a_runtime_error_that_is_not_the_disk_s_is_not_called_that(tmp_path: Path) -> None:
    with pytest.raises(IscError) as raised, written_by_torch(tmp_path / "x"):
        refuse("Tensor on device meta is not supported")()
    assert "torch could not save the state (Tensor on device meta" in raised.value.what
    assert "not the disk" in raised.value.hint


def test_a_write_that_fails_on_a_disk_that_takes_others(tmp_path: Path) -> None:
    with pytest.raises(IscError) as raised, written_by_torch(tmp_path / "x"):
        refuse(TORN)()
    assert "full" not in str(raised.value)
    assert "takes other writes" in raised.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reason", "hint"), [(errno.ENOSPC, "Delete what"), (errno.EDQUOT, "Delete what"), (errno.EIO, "failing")]
)
def test_a_disk_that_is_full_or_failing_is_called_that(
    tmp_path: Path, disk: type[Raw], reason: int, hint: str
) -> None:
    disk.room, disk.reason = 0, reason
    with pytest.raises(IscError) as raised, written_by_torch(tmp_path / "x"):
        refuse(TORN)()
    assert os.strerror(reason) in raised.value.what
    assert hint in raised.value.hint


def test_bytes_that_changed_on_their_way_are_no_checkpoint(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path, group)
    write = store.write

    def altered(state: dict[str, Any], payload: Path) -> str | None:
        handed = write(state, payload)
        with payload.open("r+b") as stream:
            stream.seek(500)
            stream.write(b"?")
        return handed

    monkeypatch.setattr(store, "write", altered)
    with pytest.raises(IscError, match="What was read back is not what was written"):
        store.save(dict(STATE), store.prepare(1, False), 1, {})
    assert store.entries() == []
