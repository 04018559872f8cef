"""Saving and resuming where file systems, clocks and languages are not what one is used to."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.checkpointing.on_disk.durable import sync_file, write_durably
from isc_runtime.checkpointing.on_disk.manifest import checksum
from isc_runtime.checkpointing.on_disk.untrusted import read_plain
from isc_runtime.checkpointing.stores import local_store
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.test_checkpointer import Training
from isc_runtime.tests.checkpointing.test_store import save
from isc_runtime.tests.conftest import open_store
from isc_runtime.tests.processes import UNSET, Place

C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_CTYPE": UNSET}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere paths are UTF-8 whatever the locale is")
@pytest.mark.parametrize("isc_mode", [False, True])
def test_a_path_that_the_locale_cannot_spell(tmp_path: Path, isc_mode: bool) -> None:
    (tmp_path / "gefüge 漢").mkdir()
    place = Place(tmp_path / "gefüge 漢", isc_mode, dict(C_LOCALE))
    first = place.run("--epochs", "1")
    assert first.code == 0, first.output
    again = place.run("--epochs", "2")
    assert again.code == 0, again.output
    assert again.steps("Resumed from") == [13]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_directories(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    for kind in ("artifact", "local"):
        (tmp_path / kind).mkdir()
        training = Training(open_store(kind, tmp_path / kind, group), group)
        with training.checkpointer as checkpointer:
            training.step()
            checkpointer.save()
        assert checkpointer.failed_saves == 0
        assert Training(open_store(kind, tmp_path / kind, group), group).checkpointer.restore()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ESTALE])
def test_a_file_that_cannot_be_synced_is_an_error_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "file").write_text("")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_file(tmp_path / "file")
    with pytest.raises(OSError, match=os.strerror(number)):
        write_durably(tmp_path / "other", b"")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_network_that_forgets_a_file_once_costs_one_save(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    training = Training(store, group)
    training.step()
    fsync, left = os.fsync, [1]

    def forget(descriptor: int) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    training.checkpointer.save()
    training.checkpointer.finish()
    training.step()
    monkeypatch.setattr(os, "fsync", forget)
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 1
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 0
    latest = store.latest()
    assert latest is not None
    assert latest.read_manifest().step == 3


class Short(io.FileIO):
    """A file of which each read takes a part only, as a network's or FUSE's may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(1000 if size is None or size < 0 else min(size, 1000)) or b""

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[:1000]) or 0


def test_short_reads_are_gone_on_with(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = save(store, 10)
    expected = checksum(payload), read_plain(payload, 10**6)
    assert len(expected[1]) > 1000
    monkeypatch.setattr(io, "FileIO", Short)
    assert (checksum(payload), read_plain(payload, 10**6)) == expected
    (entry,) = store.entries()
    assert entry.verify().step == 10


class Yesterday(datetime):
    """A clock that somebody has set back."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime(2020, 1, 1) - timedelta(days=1)  # as the store asks for it


def test_a_clock_that_is_set_back_makes_no_old_checkpoint_the_newest(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(open_store("local", tmp_path, group), group, keep_checkpoints=2)
    for number in range(6):
        if number == 2:
            monkeypatch.setattr(local_store, "datetime", Yesterday)
        training.step()
        for _ in range(2):  # the second one of the same step
            training.checkpointer.save()
            training.checkpointer.finish()
        if number == 3:  # and between two runs
            monkeypatch.undo()
    again = Training(open_store("local", tmp_path, group), group)
    assert again.checkpointer.restore()
    assert again.sampler.progress.step == 6
