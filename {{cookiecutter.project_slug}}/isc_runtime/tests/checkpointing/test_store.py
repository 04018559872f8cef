"""Stores heal what a kill leaves, find what was damaged, and fall back to what is good."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest
from isc_runtime.checkpointing.resuming import _begin_anew
from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group

EVERY_HAS = {"rng": [], "saves": 1}  # by these keys a checkpoint of this project is known


def save(store: Store, step: int, force: bool = False, anchor: bool | None = None) -> Path:
    """Saves a small checkpoint, all the way, as the run that has started last."""
    store.fence.enter()
    payload = store.prepare(step, force)
    details = {"force": force} if anchor is None else {"force": force, "anchor": anchor}
    store.save({**EVERY_HAS, "step": step, "weights": torch.full((64,), float(step))}, payload, step, details)
    store.publish(payload)
    return payload


def reopened(store: Store) -> Store:
    """The same directory, as the next run finds it."""
    return type(store)(store.directory, store.group)


def resumed_step(store: Store) -> int | None:
    """What a resume takes, read from the payload itself."""
    chosen = reopened(store).choose()
    if chosen is None:
        return None
    entry, manifest = chosen
    state = torch.load(entry.payload, weights_only=True)
    assert state["step"] == manifest.step
    return manifest.step


def link(store: Store) -> Path:
    return store.directory / store.link_name


def test_there_must_be_room_for_two_and_for_one_when_the_first_is_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(store.directory)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=15))
    with pytest.raises(IscError, match=r"no room for two checkpoints: 20 bytes are needed, 15 are free"):
        store.check_room(10)
    save(store, 1)
    store.check_room(10)
    with pytest.raises(IscError, match=r"no room for another checkpoint: 20 bytes are needed, 15 are free"):
        store.check_room(20)


def test_a_wish_to_keep_is_part_of_the_directory_s_name(tmp_path: Path, group: Group) -> None:
    store = ArtifactStore(tmp_path, group)
    assert store.prepare_checkpoint_directory(force_save=True).endswith("_checkpoint_0_force")
    store = ArtifactStore(tmp_path, group)
    assert store.prepare_checkpoint_directory().endswith("_checkpoint_0")


def test_nothing_is_nothing(store: Store) -> None:
    assert resumed_step(store) is None


def test_the_newest_is_taken_and_linked(store: Store) -> None:
    for step in (10, 20, 30):
        payload = save(store, step)
    assert resumed_step(store) == 30
    assert link(store).resolve() == (payload if isinstance(store, LocalStore) else payload.parent)


def test_two_saves_of_one_step_in_one_second_are_two(store: Store) -> None:
    first, second = save(store, 10), save(store, 10)
    assert first != second
    assert first.exists()
    assert [entry.payload for entry in store.entries()] == [first, second]


def test_what_is_left_of_a_first_save_does_not_stop_the_next_run(store: Store) -> None:
    payload = store.prepare(10, False)
    store.write({"rng": [], "saves": 1}, payload)
    assert resumed_step(store) is None
    assert save(reopened(store), 10).exists()


@pytest.mark.parametrize("stage", ["prepared", "temporary", "written", "manifest", "link_temp"])
def test_a_kill_at_each_stage_of_a_save_costs_that_save_only(
    store: Store, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 10)
    payload = store.prepare(20, False)
    if stage == "temporary":
        payload.with_name(payload.name + ".temp").write_bytes(b"half")
    elif stage == "written":
        store.write({"step": 20}, payload)
    elif stage in ("manifest", "link_temp"):
        store.save({"step": 20}, payload, 20, {})
    if stage == "link_temp":
        link(store).with_name(store.link_name + "_temp").symlink_to(payload)
    expected = 20 if stage in ("manifest", "link_temp") else 10
    assert resumed_step(store) == expected
    again = reopened(store)
    save(again, 30)
    assert resumed_step(again) == 30
    assert not list(store.directory.rglob("*temp*"))
    if stage in ("written", "link_temp"):
        assert "[REPAIR]" in caplog.text


def test_a_lost_link_is_restored_and_nothing_is_deleted(store: Store) -> None:
    payloads = [save(store, 10), save(store, 20, force=True)]
    link(store).unlink()
    again = reopened(store)
    assert resumed_step(again) == 20
    save(again, 30)
    assert all(payload.exists() for payload in payloads)


def test_a_link_to_a_lost_checkpoint_falls_back(store: Store) -> None:
    save(store, 10)
    payload = save(store, 20)
    for entry in store.entries()[-1:]:
        for path in entry.parts():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not payload.exists()
    assert resumed_step(store) == 10
    assert resumed_step(store) == 10


def test_a_moved_directory_resumes(store: Store, tmp_path_factory: pytest.TempPathFactory) -> None:
    save(store, 10)
    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    shutil.move(store.directory, moved)
    again = type(store)(moved, store.group)
    assert resumed_step(again) == 10
    save(again, 20)
    assert resumed_step(again) == 20


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 64
    path.write_bytes(content)


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "a flipped bit": lambda payload, manifest: flip(payload),
    "truncated": lambda payload, manifest: os.truncate(payload, 100),
    "empty": lambda payload, manifest: os.truncate(payload, 0),
    "payload lost": lambda payload, manifest: payload.unlink(),
    "manifest lost": lambda payload, manifest: manifest.unlink(),
    "manifest empty": lambda payload, manifest: os.truncate(manifest, 0),
    "payload a directory": lambda payload, manifest: become_directory(payload),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_set_aside_and_the_one_before_taken(
    store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 10)
    payload = save(store, 20)
    DAMAGES[damage](payload, store.manifest_path(payload))
    assert resumed_step(store) == 10
    if damage != "payload lost" or isinstance(store, ArtifactStore):
        assert "[DAMAGED]" in caplog.text
        assert list((store.directory / SET_ASIDE).iterdir())
    again = reopened(store)
    save(again, 30)
    assert resumed_step(again) == 30


@pytest.mark.parametrize("damage", DAMAGES)
def test_when_none_is_good_that_is_an_error_every_time(store: Store, damage: str) -> None:
    payload = save(store, 10)
    DAMAGES[damage](payload, store.manifest_path(payload))
    for _ in range(2):
        with pytest.raises(IscError) as raised:
            reopened(store).choose()
        assert raised.value.exit_code == ExitCode.CHECKPOINT
        assert str(store.directory) in raised.value.where
        assert "--fresh" in raised.value.hint


def test_a_fresh_start_keeps_the_old_ones_aside(store: Store) -> None:
    save(store, 10)
    reopened(store).set_all_aside()
    assert resumed_step(store) is None
    kept = [path for path in (store.directory / SET_ASIDE).rglob("*") if path.suffix in (".pt", ".pth")]
    assert len(kept) == 1
    save(reopened(store), 5)
    assert resumed_step(store) == 5


@pytest.mark.parametrize("attempts", [[False], [True], [False, False], [True, False], [False, True]])
def test_a_fresh_start_that_torchrun_repeats_goes_on_from_its_own_attempts_only(
    store: Store, attempts: list[bool]
) -> None:
    """The first attempt may have failed before it could set aside what was there.

    Args:
        attempts: of this start, whether each has saved something before it failed.
    """
    save(store, 10)
    saved = None
    for restarts, is_saved in enumerate([*attempts, False]):
        attempt = reopened(store)
        if is_saved or restarts == len(attempts):
            _begin_anew(attempt, restarts)
            chosen = attempt.choose()
            assert (chosen and chosen[1].step) == saved
        if is_saved:
            saved = 20 + restarts
            save(attempt, saved)


def test_a_payload_that_the_manifest_does_not_name_is_damage(store: Store) -> None:
    payload = save(store, 10)
    manifest = store.manifest_path(payload)
    other = payload.with_name("other")
    payload.rename(other)
    Manifest.of([other], 10, "2026-01-01T00:00:00+00:00", {}).write(manifest)
    with pytest.raises(Damaged, match="does not name"):
        store.entries()[-1].read_manifest()


def test_a_save_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, 10)
    payload = store.prepare(20, False)
    made = (payload.parent, store.staged(payload).parent)
    before = {path for path in store.directory.rglob("*") if path not in made}
    for sync in ("store.sync_file", "output.sync"):
        monkeypatch.setattr(
            f"isc_runtime.checkpointing.stores.{sync}",
            lambda path: (_ for _ in ()).throw(OSError(5, "I/O")),
        )
    with pytest.raises(OSError, match="I/O"):
        store.save({"step": 20}, payload, 20, {})
    assert {path for path in store.directory.rglob("*") if path not in made} == before
    assert isinstance(store, LocalStore) or not payload.parent.exists()


def test_forced_checkpoints_have_the_platforms_name(tmp_path: Path, store: Store) -> None:
    if not isinstance(store, ArtifactStore):
        pytest.skip("local mode notes it in the manifest")
    names = [save(store, step, force=step == 20).parent.name for step in (10, 20, 30)]
    assert names == [f"AtomicDirectory_checkpoint_{end}" for end in ("0", "1_force", "2")]


def steps(store: Store) -> list[int]:
    """Of all checkpoints that are there, oldest first."""
    return [entry.read_manifest().step for entry in store.entries()]


def test_what_is_kept_is_bounded(store: Store) -> None:
    """The newest, the best so far, the anchors, and what was forced before there were bests."""
    store.keep = 2
    for step in range(10, 120, 10):
        save(store, step, force=step in (10, 20, 50, 70), anchor=None if step == 10 else step == 20)
        store.tidy()
        assert steps(store)[-1] == step
    assert steps(store) == [10, 20, 70, 100, 110]
    assert len(list(store.directory.glob("[a-zA-Z]*"))) == 2 * 5 + 1 if isinstance(store, LocalStore) else 6
    store.keep_best = 2
    save(store, 120, force=True, anchor=False)
    store.tidy()
    assert steps(store) == [10, 20, 70, 100, 110, 120]


def test_nothing_goes_before_a_newer_one_is_durable(store: Store) -> None:
    store.keep = 1
    save(store, 10)
    payload = store.prepare(20, False)
    store.tidy()
    assert store.entries()[0].read_manifest().step == 10
    store.save({"step": 20}, payload, 20, {})
    store.tidy()
    assert steps(store) == [10, 20], "it is not published yet, and what is published stays"
    store.publish(payload)
    store.tidy()
    assert steps(store) == [20]


def test_a_deletion_that_is_cut_short_leaves_nothing_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep = 1
    save(store, 10)
    save(store, 20)
    with monkeypatch.context() as killed:
        killed.setattr("isc_runtime.checkpointing.stores.fence.remove", lambda path: None)
        store.tidy()
    again = reopened(store)
    assert steps(again) == [20]
    assert not [path for path in again.directory.rglob("*") if "doomed" in path.name]


def test_local_names_are_as_the_team_knows_them(store: Store) -> None:
    if not isinstance(store, LocalStore):
        pytest.skip("the ISC's names are cycling_utils'")
    payload = save(store, 2000)
    assert payload.match("checkpoint_[0-9]*-[0-9]*_2000.pth")
    assert link(store).readlink() == Path(payload.name)


def test_a_checkpoint_that_a_sync_has_deleted_does_not_become_the_latest(
    tmp_path: Path, group: Group
) -> None:
    """Between its last byte and its link a save is nothing to the ISC: it deletes what no link points to."""
    store = ArtifactStore(tmp_path, group)
    kept = save(store, 1)
    payload = store.prepare(2, force=False)
    store.save({"step": 2}, payload, 2, {})
    shutil.rmtree(payload.parent)
    with pytest.raises(IscError, match=r"was deleted before it became the latest.*the next save"):
        store.publish(payload)
    assert (tmp_path / store.link_name).resolve() == kept.parent
    save(store, 3)
    assert resumed_step(store) == 3
