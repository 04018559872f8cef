"""What is said of a directory is what a resume would really do, and saying it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.inventory import Inventory, take_inventory
from isc_runtime.checkpointing.on_disk.layout import LOCAL, SET_ASIDE
from isc_runtime.checkpointing.on_disk.manifest import Manifest
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.checkpointing.test_store import DAMAGES, reopened, save

PROJECT = Path(__file__).resolve().parents[3]


def command(*arguments: str | Path, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    line = [sys.executable, "-m", "isc_runtime", "checkpoints", *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def next_step(inventory: Inventory) -> int | None:
    """The step of what a resume would take, of the only series there is."""
    (series,) = inventory.series
    steps = [checkpoint.step for checkpoint in series.checkpoints if checkpoint.is_next]
    assert len(steps) <= 1
    return steps[0] if steps else None


def tree(directory: Path) -> dict[str, Any]:
    """All that a reader could change, but for the time of reading."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(directory))] = (what, status.st_mode, status.st_mtime_ns, status.st_ino)
    return found


def test_it_tells_what_there_is(store: Store) -> None:
    for step in (10, 20):
        payload = store.prepare(step, False)
        details = {"epoch": 1, "batch": step - 8, "world_size": 2, "force": False}
        store.save({"model": {}}, payload, step, details)
        store.publish(payload)
    (series,) = take_inventory(store.directory, verify=True).series
    first, second = series.checkpoints
    assert (second.step, second.epoch, second.batch, second.ranks) == (20, 1, 12, 2)
    assert second.time is not None
    assert second.time.endswith("+00:00")
    assert second.bytes > payload.stat().st_size, "the manifest counts, too"
    assert (first.state, second.state) == ("verified", "verified")
    assert (first.is_latest, second.is_latest, first.is_next, second.is_next) == (False, True, False, True)
    assert series.outlook == f"A resume takes {Path(second.path).name}, step 20."


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_foretells_what_a_resume_takes_and_changes_nothing(store: Store, damage: str) -> None:
    save(store, 10)
    payload = save(store, 20)
    DAMAGES[damage](payload, store.manifest_path(payload))
    before = tree(store.directory)
    inventory = take_inventory(store.directory, verify=True)
    assert tree(store.directory) == before
    bad = inventory.series[0].checkpoints[-1]
    assert (bad.state, bool(bad.reason)) == ("damaged", True)

    chosen = reopened(store).choose()
    assert chosen is not None
    assert next_step(inventory) == chosen[1].step == 10


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_foretells_that_a_resume_stops(store: Store, damage: str) -> None:
    payload = save(store, 10)
    DAMAGES[damage](payload, store.manifest_path(payload))
    (series,) = take_inventory(store.directory, verify=True).series
    assert series.is_stuck
    with pytest.raises(IscError, match="none of them can be used"):
        reopened(store).choose()


def test_flipped_bits_are_seen_only_when_every_byte_is_read(store: Store) -> None:
    payload = save(store, 10)
    DAMAGES["a flipped bit"](payload, store.manifest_path(payload))
    (series,) = take_inventory(store.directory).series
    assert series.checkpoints[0].state == "whole", "and not: verified"
    assert "--verify" in series.outlook
    assert take_inventory(store.directory, verify=True).series[0].checkpoints[0].state == "damaged"


def test_a_first_save_that_was_cut_short_is_no_obstacle(store: Store) -> None:
    store.write({"rng": [], "saves": 1}, store.prepare(10, False))
    (series,) = take_inventory(store.directory).series
    assert not series.is_stuck
    assert "starts at step 0" in series.outlook
    assert reopened(store).choose() is None


def test_a_link_to_nothing_is_an_obstacle(store: Store) -> None:
    (store.directory / store.link_name).symlink_to(store.directory / "gone")
    (series,) = take_inventory(store.directory).series
    assert series.is_stuck
    with pytest.raises(IscError, match="There are checkpoints, and none of them can be used"):
        reopened(store).choose()


def test_a_copied_artifact_s_broken_link_is_read_by_name(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for step in (10, 20):
        save(store, step)
    copy = tmp_path_factory.mktemp("synced") / "checkpoints"
    shutil.copytree(store.directory, copy, symlinks=True)
    shutil.rmtree(store.directory)
    checkpoints = take_inventory(copy, verify=True).series[0].checkpoints
    assert [(c.step, c.is_latest, c.is_next) for c in checkpoints] == [(10, False, False), (20, True, True)]


def test_savers_are_told_apart_and_what_was_set_aside_too(tmp_path: Path) -> None:
    for name in ("AtomicDirectory", "best_checkpoint"):
        for number in (9, 10):
            whole(tmp_path / f"{name}_checkpoint_{number}_force", step=number)
    whole(tmp_path / SET_ASIDE / "20261124-101500-abc" / "AtomicDirectory_checkpoint_3", step=3)
    inventory = take_inventory(tmp_path)
    assert [(series.saver, [c.step for c in series.checkpoints]) for series in inventory.series] == [
        ("AtomicDirectory", [9, 10]),
        ("best_checkpoint", [9, 10]),
    ]
    assert [(c.step, c.is_set_aside, c.is_next) for c in inventory.set_aside] == [(3, True, False)]


def whole(directory: Path, step: int, files: tuple[str, ...] = ("checkpoint.pt",)) -> Entry:
    directory.mkdir(parents=True)
    for name in files:
        (directory / name).write_bytes(b"x" * 1000)
    Manifest.of([directory / name for name in files], step, "2026-11-24T10:15:00+00:00", {}).write(
        directory / "manifest.json"
    )
    return Entry((step,), directory / "checkpoint.pt", directory / "manifest.json")


def test_a_checkpoint_of_several_files_needs_all_of_them(tmp_path: Path) -> None:
    directory = tmp_path / "AtomicDirectory_checkpoint_0"
    whole(directory, step=5, files=("checkpoint.pt", "shard-0", "shard-1"))
    assert take_inventory(tmp_path).series[0].checkpoints[0].bytes > 3000
    (directory / "shard-1").write_bytes(b"x")
    (checkpoint,) = take_inventory(tmp_path).series[0].checkpoints
    assert checkpoint.reason == "shard-1 has 1 bytes instead of 1000"
    assert checkpoint.step == 5, "the manifest still tells"


def test_a_checkpoint_of_a_newer_version_stops_a_resume(tmp_path: Path) -> None:
    entry = whole(tmp_path / "AtomicDirectory_checkpoint_0", step=5)
    replace(entry.read_manifest(), format_version=99).write(entry.manifest)
    (series,) = take_inventory(tmp_path).series
    assert series.is_stuck
    assert "format 99" in series.outlook


def test_the_command_prints_a_table_or_json_and_needs_no_torch(tmp_path: Path) -> None:
    whole(tmp_path / "AtomicDirectory_checkpoint_0", step=7)
    said = command(tmp_path)
    assert said.returncode == 0, said.stderr
    assert "A resume takes AtomicDirectory_checkpoint_0, step 7" in said.stdout
    assert "2026-11-24 10:15:00" in said.stdout

    listed = json.loads(command(tmp_path, "--json", "--verify").stdout)
    assert listed["series"][0]["checkpoints"][0]["state"] == "verified"

    (tmp_path / "AtomicDirectory_checkpoint_0" / "checkpoint.pt").unlink()
    said = command(tmp_path)
    assert said.returncode == ExitCode.CHECKPOINT
    assert "checkpoint.pt is missing" in said.stdout
    code = (
        "import sys; from isc_runtime.__main__ import main; main(['checkpoints', sys.argv[1], '--verify']);"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=PROJECT, check=True, capture_output=True)


def test_the_command_looks_where_a_training_would_save(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert command(cwd=tmp_path).stdout == f"No checkpoints in {tmp_path / 'checkpoints'}.\n"


@pytest.mark.parametrize(("name", "what"), [("absent", "no such directory"), ("file", "This is a file")])
def test_what_is_no_directory_is_refused_in_one_line(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").touch()
    said = command(tmp_path / name)
    assert (said.returncode, said.stdout) == (ExitCode.UNFIT, "")
    assert what in said.stderr
    assert str(tmp_path / name) in said.stderr
    assert "Name the directory that holds" in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_the_usual_place_is_the_local_one(tmp_path: Path, store: Store) -> None:
    kinds = {series.saver for series in take_inventory(store.directory).series}
    save(store, 1)
    assert kinds == set()
    expected = LOCAL if store.link_name == "resume.pth" else "AtomicDirectory"
    assert [series.saver for series in take_inventory(store.directory).series] == [expected]
