"""A run that was replaced changes nothing any more, wherever it stood when the next one took over."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.checkpointing.on_disk.entries import PAYLOAD
from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.checkpointing.stores.fence import MOST_STARTS, RUN_FOLDER
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.ranks_that_save import Training, poll_until_saved
from isc_runtime.tests.checkpointing.test_inventory import tree
from isc_runtime.tests.checkpointing.test_store import link, resumed_step, steps


def save(store: Store, step: int) -> Path:
    """As one run that saves several times."""
    payload = store.prepare(step, False)
    store.save({"step": step}, payload, step, {})
    store.publish(payload)
    return payload


def successor(store: Store, *steps: int) -> Store:
    """Another run takes over, goes on and saves."""
    again = type(store)(store.directory, store.group)
    again.choose()
    for step in steps:
        save(again, step)
    return again


def content(store: Store) -> dict[str, tuple[object, ...]]:
    """What is there of checkpoints and the link."""
    return {name: what for name, what in tree(store.directory).items() if not name.startswith(".isc-")}


ACTS: dict[str, Callable[[Store, Path], object]] = {
    "prepares": lambda store, payload: store.prepare(40, False),
    "writes": lambda store, payload: store.save({}, payload, 30, {}),
    "publishes": lambda store, payload: store.publish(payload),
    "heals": lambda store, payload: store.heal(),
    "sets all aside": lambda store, payload: store.set_all_aside(),
    "tidies": lambda store, payload: store.tidy(),
    "discards": lambda store, payload: store.discard(payload),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("is_written", [False, True])
def test_a_run_that_was_replaced_changes_nothing(store: Store, act: str, is_written: bool) -> None:
    store.keep = 1
    save(store, 10)
    save(store, 20)
    payload = store.prepare(30, False)
    if is_written:
        store.save({"step": 30}, payload, 30, {})
    successor(store, 40, 50)
    before = content(store)
    try:
        ACTS[act](store, payload)
    except (IscError, OSError):
        with pytest.raises(IscError, match="Another run has taken over this checkpoint directory") as raised:
            store.check_owner()
        assert raised.value.exit_code == ExitCode.TAKEN
        assert str(store.directory) in raised.value.where
        assert "second process" in raised.value.hint
    assert content(store) == before
    assert resumed_step(store) == 50


def test_a_training_that_was_replaced_ends_at_its_next_save(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(store, group)
    training.step()
    training.checkpointer.save()
    assert poll_until_saved(training)
    training.checkpointer.save()
    successor(store, 7)
    with pytest.raises(IscError, match="taken over") as raised:
        training.checkpointer.finish()
    assert raised.value.exit_code == ExitCode.TAKEN
    assert "[FAILED]" not in caplog.text, "it is no failed save, to be tried again"
    assert resumed_step(store) == 7


def test_a_folder_of_a_run_that_a_sync_has_deleted_is_made_again(store: Store) -> None:
    save(store, 10)
    shutil.rmtree(store.fence.folder)
    save(store, 20)
    assert resumed_step(store) == 20


def test_a_run_whose_directory_was_moved_leaves_the_one_in_its_place_alone(store: Store) -> None:
    """However many starts it counts: `mv checkpoints old`, and another training begins."""
    old = successor(successor(store), 10)
    old.directory.rename(old.directory.with_name(f"{old.directory.name}.old"))
    old.directory.mkdir()
    new = type(store)(old.directory, store.group)
    save(new, 1)
    with pytest.raises(IscError, match="Another run has taken over") as raised:
        save(old, 20)
    assert raised.value.exit_code is ExitCode.TAKEN
    save(new, 2)
    assert resumed_step(new) == 2


def test_only_the_folder_of_the_last_run_is_there(store: Store) -> None:
    for _ in range(3):
        successor(store)
    (folder,) = [path for path in store.directory.iterdir() if RUN_FOLDER.fullmatch(path.name)]
    assert RUN_FOLDER.fullmatch(folder.name)[1] == "4"  # type: ignore[index]
    assert not list(store.directory.glob(".isc-gone-*"))


def disown(payload: Path, store: Store, step: int) -> None:
    """Makes it the checkpoint of a version that names no owner."""
    from isc_runtime.checkpointing.on_disk.manifest import Manifest

    manifest = store.manifest_path(payload)
    Manifest.of([payload], step, "2026-01-01T00:00:00+00:00", {}).write(manifest)


def test_what_is_newest_goes_by_owner_and_step_not_by_number(tmp_path: Path, group: Group) -> None:
    """A frozen node that knows of no fence wakes and publishes a higher number, with an older step."""
    store = ArtifactStore(tmp_path, group)
    save(store, 10)
    again = successor(store, 2040, 2045)
    foreign = tmp_path / "AtomicDirectory_checkpoint_145"
    shutil.copytree(again.entries()[0].path, foreign)
    disown(foreign / "checkpoint.pt", again, 1010)
    link(store).unlink()
    link(store).symlink_to(foreign)
    kept = {entry.path for entry in again.entries() if entry.path != foreign}
    save(again, 2050)
    assert link(store).resolve() != foreign
    assert all(path.exists() for path in kept), "AtomicDirectory goes by the link, and that was put right"
    link(store).unlink()
    foreign.mkdir(exist_ok=True)
    assert resumed_step(store) == 2050
    assert steps(again)[-1] == 2050


@pytest.mark.parametrize("saves_before", [0, 1, 2])
@pytest.mark.parametrize("is_killed", [False, True])
def test_the_window_that_stays_open_is_closed_by_the_next_save(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch, saves_before: int, is_killed: bool
) -> None:
    """Frozen inside of AtomicDirectory, which has seen something newer than the link and is about to delete
    it. It stays open as long as the frozen run sleeps: what the other one has saved under that number goes.
    """
    frozen = ArtifactStore(tmp_path, group)
    for number in range(saves_before):
        save(frozen, 10 + number)
    left = tmp_path / f"AtomicDirectory_checkpoint_{saves_before}"
    left.mkdir()  # of a save that failed, and could not be taken away
    others: list[Store] = []
    rmtree = shutil.rmtree

    def sleep_and_delete(path: Any, *arguments: Any, **options: Any) -> None:
        if not others and Path(path).name == left.name:
            others.append(frozen)  # what the other one deletes itself is not held up
            others.append(successor(frozen, 40))
        rmtree(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", sleep_and_delete)
    with pytest.raises(IscError, match="taken over"):
        frozen.prepare(30, False)
    monkeypatch.undo()
    (_, other) = others
    assert not other.manifest_path(left / PAYLOAD).exists(), "this is the window: it was the other one's"
    if is_killed:  # before it made a folder of that name for itself
        left.rmdir()
    for step in (50, 60):
        save(other, step)
        latest = other.latest()
        assert latest is not None
        assert latest.read_manifest().step == step
    assert resumed_step(other) == 60


@pytest.mark.parametrize("count", [MOST_STARTS, 2**63 - 1])
def test_a_count_that_no_start_can_exceed_stops_it_before_it_saves_what_cannot_be_read(
    store: Store, count: int
) -> None:
    payload = save(store, 10)
    entry = store.layout.entry_of(payload)
    manifest = entry.read_manifest()
    details = {**manifest.details, "owner": {"count": count, "run": "a stranger's"}}
    dataclasses.replace(manifest, details=details).write(entry.manifest)
    before = content(store)
    with pytest.raises(IscError, match=rf"of start {count}.*another directory") as stopped:
        type(store)(store.directory, store.group)
    assert stopped.value.exit_code == ExitCode.CHECKPOINT
    assert content(store) == before


def test_the_highest_count_that_a_start_can_have_is_read(store: Store) -> None:
    payload = save(store, 10)
    entry = store.layout.entry_of(payload)
    manifest = entry.read_manifest()
    details = {**manifest.details, "owner": {"count": MOST_STARTS - 1, "run": "a stranger's"}}
    dataclasses.replace(manifest, details=details).write(entry.manifest)
    again = successor(store, 20)
    assert RUN_FOLDER.fullmatch(again.fence.folder.name)
    assert again.layout.entries()[-1].read_manifest().step == 20
