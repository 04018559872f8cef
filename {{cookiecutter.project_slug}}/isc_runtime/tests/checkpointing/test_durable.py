"""Bytes that are really on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.checkpointing.on_disk import durable
from isc_runtime.checkpointing.on_disk.durable import link_durably, probe, sync_file, write_durably


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_durably(file, b"old")
    (tmp_path / "file.temp").mkdir()  # stands in the way of the temporary file
    with pytest.raises(OSError, match="directory"):
        write_durably(file, b"new")
    assert file.read_bytes() == b"old"


def test_what_the_system_says_of_a_descriptor_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    calls: list[Callable[[], None]] = [
        lambda: write_durably(tmp_path / "file", b"new"),
        lambda: sync_file(tmp_path),
    ]
    for failing in calls:
        with pytest.raises(OSError, match=r"No space left on device: '/") as raised:
            failing()
        assert str(raised.value.filename).startswith(str(tmp_path))


def test_a_link_is_replaced_whatever_stands_in_its_way(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    (tmp_path / "link_temp").symlink_to("left by a kill")
    link_durably(link, "target")
    assert link.readlink() == Path("target")
    assert list(tmp_path.iterdir()) == [link]


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_probe_that_another_training_tidied_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = durable.write_durably, []

    def tidied_away(path: Path, content: bytes) -> None:
        write(path, content)
        written.append(path)
        if len(written) == 1:
            path.unlink()

    monkeypatch.setattr(durable, "write_durably", tidied_away)
    probe(tmp_path)
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_probe_needs_the_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        probe(tmp_path / "missing")


@pytest.mark.parametrize("error", [None, errno.ENOTSUP, errno.EIO])
def test_a_file_leaves_the_cache_of_a_macs_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    asked: list[str] = []

    def full_sync(descriptor: int, command: int) -> int:
        asked.append(f"F_FULLFSYNC {command}")
        if error:
            raise OSError(error, os.strerror(error))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full_sync)
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("fsync"))
    if error == errno.EIO:
        with pytest.raises(OSError, match="Input/output"):
            write_durably(tmp_path / "file", b"content")
        assert not list(tmp_path.iterdir())
        return
    write_durably(tmp_path / "file", b"content")
    each = ["F_FULLFSYNC 51"] + ["fsync"] * (error is not None)
    assert asked == each * 2  # the file, and its directory
