"""A power cut keeps what was synced, in any order: so nothing is named before it is synced."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.checkpointing.on_disk.durable import TEMPORARY_SUFFIX, link_durably, write_durably
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.mailbox import Mailbox
from isc_runtime.tests.checkpointing.ranks_that_save import Training, on_each_rank
from isc_runtime.tests.processes import run_forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="which file a descriptor is says /proc")


class Disk:
    """What this process asks of the disk, in order: ("sync", path), ("name", path) or ("report", path)."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, Path]] = []
        fsync, replace, rename, post = os.fsync, os.replace, os.rename, Mailbox.post

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            self.calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))

        def named(call: Any, source: Any, target: Any, **options: Any) -> None:
            call(source, target, **options)
            self.calls.append(("name", Path(target)))

        def posted(mailbox: Mailbox, subject: str, value: object) -> None:
            self.calls.append(("report", Path(subject)))
            post(mailbox, subject, value)

        patch.setattr("os.fsync", synced)
        patch.setattr("os.replace", partial(named, replace))
        patch.setattr("os.rename", partial(named, rename))
        patch.setattr(Mailbox, "post", posted)

    def when(self, call: str, path: Path, after: int = -1) -> int:
        """At which place in the order a path was synced or named the first time after another one.

        Raises:
            ValueError: it was not.
        """
        return self.calls.index((call, path), after + 1)

    def durable(self, path: Path) -> int:
        """At which place a file was synced, under its name or under the one before. Raises StopIteration."""
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        return next(
            place for place, call in enumerate(self.calls) if call in [("sync", path), ("sync", temporary)]
        )


def test_a_file_is_synced_before_it_has_its_name_and_the_folder_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    write_durably(tmp_path / "file", b"content")
    expected = [("sync", tmp_path / "file.temp"), ("name", tmp_path / "file"), ("sync", tmp_path)]
    assert disk.calls == expected
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_link_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    link_durably(tmp_path / "link", "target")
    assert disk.calls == [("name", tmp_path / "link"), ("sync", tmp_path)]


def test_a_checkpoint_is_on_the_disk_before_its_manifest_says_so_and_that_before_the_link(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(store, group)
    training.step()
    disk = Disk(monkeypatch)
    training.checkpointer.save()
    training.checkpointer.finish()
    entry = store.entries()[-1]
    payload, manifest = store.staged(entry.payload), store.staged(entry.manifest)
    written = disk.durable(payload)
    entered = disk.when("sync", payload.parent, written)
    described = disk.when("name", manifest, entered)
    assert disk.when("name", manifest) == described  # and not before
    assert disk.when("name", payload) < entered
    assert disk.durable(manifest) < described
    named = [disk.when("name", path, described) for path in reversed(entry.parts())]
    assert named == sorted(named)
    durable = disk.when("sync", store.directory, named[-1])
    link = store.directory / store.link_name
    linked = next(
        place for place, (call, path) in enumerate(disk.calls) if (call, path.name) == ("name", link.name)
    )
    assert durable < linked
    assert disk.when("sync", store.directory, linked) == len(disk.calls) - 1


def save_and_check_order(training: Training) -> None:
    """On each of two ranks, which have seen their own calls only."""
    training.step()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        training.checkpointer.save()
        training.checkpointer.finish()
    path = training.store.entries()[-1].path
    folder = training.store.staged(path)
    own = folder / next(path.glob(f"__{training.group.rank}_*")).name
    reported = next(place for place, (call, _) in enumerate(disk.calls) if call == "report")
    assert disk.when("sync", folder, disk.when("sync", own)) < reported
    if training.group.is_master:
        described = disk.when("name", folder / "manifest.json")
        assert disk.durable(folder / "checkpoint.pt") < described
        sealed = disk.when("sync", folder / ".metadata", reported)
        assert disk.when("sync", folder, sealed) < described
        durable = disk.when("sync", training.store.directory, disk.when("name", path, described))
        assert durable < disk.when("name", training.store.directory / training.store.link_name)


def test_shards_are_on_the_disk_before_their_rank_says_so(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    work = partial(on_each_rank, tmp_path / "there", "fsdp", save_and_check_order)
    for rank, ended in enumerate(run_forked(tmp_path, work)):
        assert f"rank {rank} came to its end" in ended.output, ended.output
