"""Own checkpoints where no start looks stop the start, and what others call `.temp` is not ours to delete."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.checkpointing.on_disk.inventory_report import report
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.test_inventory import tree
from isc_runtime.tests.checkpointing.test_store import reopened, resumed_step, save
from isc_runtime.tests.conftest import open_store
from isc_runtime.tests.processes import Place


def nested(source: Path, target: Path) -> None:
    """As `cp -r checkpoints there/checkpoints` makes it, where that exists already."""
    shutil.copytree(source, target / "checkpoints", symlinks=True)


def renamed(source: Path, target: Path) -> None:
    """As a file manager calls a second copy."""
    for path in source.glob("*checkpoint_*"):
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target / f"{path.name} (1)")
        elif path.is_file() and not path.is_symlink():
            (target / "copy").mkdir(exist_ok=True)
            shutil.copy2(path, target / "copy")


def linked(source: Path, target: Path) -> None:
    """As somebody keeps them whose home is small."""
    for path in source.glob("*checkpoint_*"):
        if not path.is_symlink():
            (target / path.name).symlink_to(path)


MISTAKES = [nested, renamed, linked]


@pytest.fixture
def elsewhere(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory beside that of two checkpoints."""
    for step in (10, 20):
        save(store, step)
    shutil.rmtree(store.fence.folder)
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_start_does_not_begin_anew_beside_an_own_checkpoint(
    mistake: Callable[[Path, Path], None], store: Store, elsewhere: Path
) -> None:
    mistake(store.directory, elsewhere)
    assert take_inventory(elsewhere).is_stuck
    before = tree(elsewhere)
    again = type(store)(elsewhere, store.group)
    with pytest.raises(IscError, match="of this project where no start looks") as stopped:
        again.choose()
    assert stopped.value.exit_code == ExitCode.CHECKPOINT
    after = {name: what[0] for name, what in tree(elsewhere).items() if not name.startswith(".isc-")}
    assert after == {name: what[0] for name, what in before.items()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_fresh_start_beside_one_stays_fresh(
    mistake: Callable[[Path, Path], None], store: Store, elsewhere: Path
) -> None:
    mistake(store.directory, elsewhere)
    again = type(store)(elsewhere, store.group)
    again.set_all_aside()
    assert again.choose() is None
    assert list((elsewhere / SET_ASIDE).glob("*/*"))


@pytest.mark.parametrize("mistake", [nested, renamed])
def test_beside_one_that_is_in_its_place_it_is_only_listed(
    mistake: Callable[[Path, Path], None],
    store: Store,
    elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mistake(store.directory, elsewhere)
    shutil.copytree(store.directory, elsewhere, symlinks=True, dirs_exist_ok=True)
    assert resumed_step(type(store)(elsewhere, store.group)) == 20
    assert report(take_inventory(elsewhere), as_json=False) == 0
    assert "of this project, where no start looks" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "other"), [("artifact", "local"), ("local", "artifact")])
def test_those_of_the_other_kind_of_directory_are_none_to_pass_over(
    kind: str, other: str, tmp_path: Path, group: Group
) -> None:
    store = open_store(kind, tmp_path, group)
    save(store, 10)
    with pytest.raises(IscError, match=r"of this project where no start looks.*that directory itself: "):
        open_store(other, tmp_path, group).choose()
    assert resumed_step(open_store(kind, tmp_path, group)) == 10


def test_an_artifact_s_checkpoint_goes_on_locally_under_the_name_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Place(tmp_path / "one", isc_mode=True), Place(tmp_path / "two")
    assert one.train("--epochs", "1").code == 0
    newest = max(one.checkpoints.glob("AtomicDirectory_checkpoint_*"))
    two.checkpoints.mkdir(exist_ok=True)
    there = two.checkpoints / newest.name
    shutil.copytree(newest, there)
    stopped = two.train("--epochs", "1")
    assert stopped.code == ExitCode.CHECKPOINT, stopped.output
    assert "checkpoint_<YYYYmmdd-HHMMSS>_<step>, a folder" in stopped.output
    there.rename(two.checkpoints / "checkpoint_20260101-120000_45")
    again = two.train("--epochs", "2")
    assert again.code == 0, again.output
    assert "Resumed from" in again.output


def test_what_others_call_temp_is_not_deleted(store: Store, tmp_path: Path) -> None:
    save(store, 10)
    shutil.copytree(store.directory, tmp_path / "copy", symlinks=True)
    shutil.move(tmp_path / "copy", store.directory / "before.temp")
    (store.directory / "best.pth.temp").write_bytes(b"a checkpoint")
    (store.directory / "linked.temp").symlink_to(tmp_path)
    before = tree(store.directory / "before.temp")
    again = type(store)(store.directory, store.group)
    assert resumed_step(again) == 10
    assert tree(store.directory / "before.temp") == before
    assert (store.directory / "best.pth.temp").read_bytes() == b"a checkpoint"
    assert (store.directory / "linked.temp").is_symlink()


def test_a_later_save_that_was_copied_without_its_manifest_is_no_first_one(
    store: Store,
) -> None:
    payload = store.prepare(45, False)
    payload.parent.mkdir(exist_ok=True)
    torch.save({"model": {}, "rng": [], "saves": 9}, payload)
    before = payload.read_bytes()
    again = type(store)(store.directory, store.group)
    assert take_inventory(store.directory).is_stuck
    with pytest.raises(IscError, match=r"none of them can be used.*manifest\.json is missing"):
        again.choose()
    assert payload.read_bytes() == before


def test_one_that_was_brought_without_its_manifest_is_not_deleted(store: Store) -> None:
    """It is newer than all that is there, and may be the only copy."""
    save(store, 10)
    payload = store.prepare(900, False)
    payload.parent.mkdir(exist_ok=True)
    torch.save({"model": {}, "rng": [], "saves": 9}, payload)
    before = payload.read_bytes()
    assert resumed_step(reopened(store)) == 10
    (aside,) = (store.directory / SET_ASIDE).rglob(payload.name)
    assert aside.read_bytes() == before
