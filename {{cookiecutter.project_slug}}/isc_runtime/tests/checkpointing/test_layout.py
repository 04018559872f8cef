"""Copies with links followed, and what else a directory may hold: what is listed is what a resume does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.export import export
from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE, ArtifactLayout, LocalLayout, layouts
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.rehearsal import artifact
from isc_runtime.tests.checkpointing.test_inventory import next_step, tree
from isc_runtime.tests.checkpointing.test_store import link, reopened, resumed_step, save
from isc_runtime.tests.processes import Place


@pytest.fixture
def copy(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a directory with two checkpoints, as `scp -r`, `cp -rL` and zip make it: files in place of links."""
    for step in (10, 20):
        save(store, step)
    target = tmp_path_factory.mktemp("copy") / "checkpoints"
    shutil.copytree(store.directory, target, symlinks=False)
    assert not (target / store.link_name).is_symlink()
    return target


def test_a_copy_with_links_followed_resumes_and_is_listed_so(store: Store, copy: Path) -> None:
    before = tree(copy)
    inventory = take_inventory(copy, verify=True)
    assert tree(copy) == before
    again = type(store)(copy, store.group)
    assert resumed_step(again) == next_step(inventory) == 20
    assert link(again).is_symlink()
    save(again, 30)
    assert resumed_step(again) == 30
    assert len(list((copy / SET_ASIDE).glob(f"*/{store.link_name}"))) == 1


def test_what_has_the_name_of_the_link_is_kept_by_a_fresh_start(store: Store, copy: Path) -> None:
    content = {path.name: path.stat().st_size for path in copy.rglob("*.pt*") if path.is_file()}
    again = type(store)(copy, store.group)
    again.set_all_aside()
    kept = {path.name: path.stat().st_size for path in (copy / SET_ASIDE).rglob("*.pt*") if path.is_file()}
    assert kept == content
    assert [path.name for path in copy.glob("[!.]*")] == [SET_ASIDE]
    assert resumed_step(again) is None


@pytest.fixture
def alone(store: Store, copy: Path) -> Path:
    """Nothing but what has the link's name: all that somebody copied."""
    for path in list(copy.iterdir()):
        if path.name != store.link_name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


def test_a_copy_that_is_all_there_is_stops_a_resume_and_is_kept(store: Store, alone: Path) -> None:
    (series,) = take_inventory(alone).series
    assert series.is_stuck
    assert f"{store.link_name} is no link, but a copy" in series.outlook
    before = tree(alone)
    again = type(store)(alone, store.group)
    with pytest.raises(IscError, match=rf"none of them can be used.*{store.link_name} is no link.*--fresh"):
        again.choose()
    after = {name: what[0] for name, what in tree(alone).items() if not name.startswith(".isc-")}
    assert after == {name: what[0] for name, what in before.items()}


def test_a_fresh_start_moves_the_only_copy_aside(store: Store, alone: Path) -> None:
    kept = sorted(path.stat().st_size for path in alone.rglob("*") if path.is_file())
    again = type(store)(alone, store.group)
    again.set_all_aside()
    assert sorted(path.stat().st_size for path in (alone / SET_ASIDE).rglob("*") if path.is_file()) == kept
    assert again.choose() is None
    save(again, 1)
    assert resumed_step(again) == 1


@pytest.mark.parametrize("isc_mode", [False, True])
def test_a_training_goes_on_in_a_copy_and_starts_afresh_over_one(tmp_path: Path, isc_mode: bool) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Place(tmp_path / "one", isc_mode), Place(tmp_path / "two", isc_mode)
    assert one.train("--epochs", "1").code == 0
    if two.checkpoints.exists():
        two.checkpoints.rmdir()
    shutil.copytree(one.checkpoints, two.checkpoints, symlinks=False)
    again = two.train("--epochs", "2")
    assert again.code == 0, again.output
    assert "Resumed from" in again.output
    shutil.rmtree(two.checkpoints)
    shutil.copytree(one.checkpoints, two.checkpoints, symlinks=False)
    fresh = two.train("--epochs", "1", "--fresh")
    assert fresh.code == 0, fresh.output
    assert "training starts at step 0" in fresh.output
    name = "AtomicDirectory.latest_checkpoint" if isc_mode else "resume.pth"
    assert list((two.checkpoints / SET_ASIDE).glob(f"*/{name}"))


def test_a_copied_temporary_link_is_kept_too(store: Store) -> None:
    save(store, 10)
    temporary = link(store).with_name(f"{store.link_name}_temp")
    temporary.write_bytes(b"a checkpoint")
    again = reopened(store)
    (kept,) = (store.directory / SET_ASIDE).glob(f"*/{temporary.name}")
    assert kept.read_bytes() == b"a checkpoint"
    save(again, 20)
    assert resumed_step(again) == 20


NO_CHECKPOINTS = [
    "checkpoint_99999999-999999_5.pth",  # no day
    "checkpoint_20260101-000000_5",  # a file, where a folder belongs
    "checkpoint_20260101-000000_x.pth",
    "checkpoint_20260101-000000_٣.pth",  # a digit, but not ours
    "AtomicDirectory_checkpoint_0",  # a file
    "_checkpoint_0",
    "AtomicDirectory_checkpoint_",
]


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_only_looks_like_a_checkpoint_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert layouts(tmp_path) == []


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (LocalLayout(Path("/c")), "checkpoint_20260101-000000_5.pth"),
        (LocalLayout(Path("/c")), "checkpoint_20260101-000000_5"),
        (ArtifactLayout(Path("/c")), "AtomicDirectory_checkpoint_5"),
        (ArtifactLayout(Path("/c"), "best"), "best_checkpoint_5_force"),
    ],
)
def test_a_name_a_payload_and_a_link_mean_the_same_checkpoint(
    layout: LocalLayout | ArtifactLayout, name: str
) -> None:
    entry = layout.entry_at(Path("/c") / name, is_folder=not name.endswith(".pth"))
    assert entry is not None
    assert entry.name == Path(layout.link_target(entry)).name == name
    again = layout.entry_of(entry.payload)
    assert (again.payload, again.manifest) == (entry.payload, entry.manifest)
    beside = layout.entry_at(entry.manifest, is_folder=False)
    assert beside in (entry, None)
    assert (beside is None) == (entry.path != entry.payload)


def test_numbers_are_numbers_and_not_words(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        (tmp_path / f"AtomicDirectory_checkpoint_{number}").mkdir()
    assert [entry.order for entry in ArtifactLayout(tmp_path).entries()] == [(2,), (9,), (10,)]


def test_what_outranks_keeps_its_force(tmp_path: Path) -> None:
    layout = ArtifactLayout(tmp_path)
    good, bad = (Entry.in_folder(tmp_path / f"AtomicDirectory_checkpoint_{n}", (n,)) for n in (4, 7))
    assert layout.outranking(good, [bad]).name == "AtomicDirectory_checkpoint_8"
    forced = Entry.in_folder(tmp_path / "AtomicDirectory_checkpoint_4_force", (4,))
    assert layout.outranking(forced, [bad]).name == "AtomicDirectory_checkpoint_8_force"


def test_the_rehearsal_sees_the_checkpoints_that_a_resume_sees(store: Store) -> None:
    save(store, 10)
    save(store, 20)
    (store.directory / "other_checkpoint_3").mkdir()
    shutil.copy(store.manifest_path(store.entries()[-1].payload), store.directory / "other_checkpoint_3")
    seen = artifact.complete_checkpoints(store.directory)
    if isinstance(store.layout, ArtifactLayout):
        assert seen == {entry.read_manifest().step: entry.path for entry in store.entries()}
        assert artifact.newest_step(store.directory) == 20
    else:
        assert seen == {}


def test_export_takes_what_a_resume_takes(store: Store, copy: Path) -> None:
    with pytest.raises(IscError, match="has no weights") as raised:
        export(copy, copy / "w")
    assert raised.value.exit_code == ExitCode.CHECKPOINT
    assert raised.value.where == str(type(store).kind(copy).entries()[-1].payload)
