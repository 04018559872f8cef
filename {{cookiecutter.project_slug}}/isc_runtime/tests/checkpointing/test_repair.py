"""A damaged checkpoint that cannot be moved out of the way does not keep a training from the good one."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isc_runtime.checkpointing.on_disk import inventory_report, verification
from isc_runtime.checkpointing.on_disk.durable import link_durably
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.on_disk.manifest import Manifest
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.checkpointing.test_inventory import next_step
from isc_runtime.tests.checkpointing.test_store import DAMAGES, link, reopened, resumed_step, save

NOT_ROOT = 65534


def other_file_system() -> Path | None:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and memory.stat().st_dev != Path.cwd().stat().st_dev else None


def set_aside_is_a_file(directory: Path) -> str:
    (directory / SET_ASIDE).write_bytes(b"mine")
    return "set-aside is a file"


def set_aside_is_a_link(directory: Path) -> str:
    (directory / SET_ASIDE).symlink_to(other_file_system() or Path.home())
    return "set-aside is a link"


def set_aside_is_a_link_to_nothing(directory: Path) -> str:
    (directory / SET_ASIDE).symlink_to("nowhere")
    return "set-aside is a link"


OBSTACLES: list[Callable[[Path], str]] = [
    set_aside_is_a_file,
    set_aside_is_a_link,
    set_aside_is_a_link_to_nothing,
]


@pytest.mark.parametrize("damage", ["a flipped bit", "truncated"])
@pytest.mark.parametrize("obstruct", OBSTACLES)
def test_the_good_one_is_taken_and_what_was_left_is_said(
    store: Store, obstruct: Callable[[Path], str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 10)
    damaged = save(store, 20)
    DAMAGES[damage](damaged, store.manifest_path(damaged))
    why = obstruct(store.directory)
    name = store.entries()[-1].name
    assert next_step(take_inventory(store.directory, verify=True)) == 10
    caplog.clear()
    assert resumed_step(store) == 10
    (said,) = [record.getMessage() for record in caplog.records if "stays in" in record.getMessage()]
    assert all(part in said for part in (name, str(store.directory), why))
    assert damaged.exists(), "it is never deleted"
    assert resumed_step(store) == 10, "again, and each time"
    go_on_with(store, damaged)


def go_on_with(store: Store, damaged: Path) -> None:
    """Later saves work, also those of an old one's step, and are taken; the damaged one stays."""
    again = reopened(store)
    if isinstance(again, LocalStore):
        again.keep = 1
    assert again.choose()
    for step in (12, 14):
        save(again, step)
        again.tidy()
        assert resumed_step(again) == step
    assert damaged.exists()
    save(again, 40)
    assert resumed_step(again) == 40


@pytest.fixture
def immutable(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a file or folder immutable until the end of the test."""

    def change(path: Path) -> None:
        done = subprocess.run(["chattr", "+i", path], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this file system or user cannot make anything immutable")

    try:
        yield change
    finally:  # wherever it is by now
        subprocess.run(["chattr", "-R", "-i", tmp_path], capture_output=True, check=False)


@pytest.mark.parametrize("part", ["path", "payload", "manifest"])
def test_an_immutable_damaged_one_is_left_whole(
    store: Store, part: str, immutable: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 10)
    damaged = save(store, 20)
    DAMAGES["a flipped bit"](damaged, store.manifest_path(damaged))
    entry = store.entries()[-1]
    immutable(getattr(entry, part))
    assert resumed_step(store) == 10
    if part == "path" or isinstance(store, LocalStore):
        assert "stays in" in caplog.text
        assert "Operation not permitted" in caplog.text
        assert entry.manifest.exists(), "what was moved of it is back"
        assert not list((store.directory / SET_ASIDE).iterdir())
        go_on_with(store, damaged)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a while")
def test_one_whose_folder_may_not_be_moved_is_left(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    save(store, 10)
    damaged = save(store, 20)
    DAMAGES["a flipped bit"](damaged, store.manifest_path(damaged))
    if isinstance(store, LocalStore):
        pytest.skip("a file may be moved by whoever may write to its directory")
    with tempfile.TemporaryDirectory() as reachable:
        place = Path(reachable)
        place.chmod(0o777)
        directory = place / "checkpoints"
        store.directory.rename(directory)
        subprocess.run(["chown", "-R", str(NOT_ROOT), directory], check=True)
        (directory / damaged.parent.name).chmod(0o555)
        os.seteuid(NOT_ROOT)
        try:
            moved = type(store)(directory, store.group)
            assert resumed_step(moved) == 10
            assert "Permission denied" in caplog.text
            go_on_with(moved, directory / damaged.parent.name / damaged.name)
        finally:
            os.seteuid(0)
            directory.rename(store.directory)


@pytest.mark.parametrize("obstruct", OBSTACLES)
def test_a_fresh_start_that_cannot_move_what_is_there_says_so(
    store: Store, obstruct: Callable[[Path], str]
) -> None:
    payload = save(store, 10)
    why = obstruct(store.directory)
    with pytest.raises(IscError, match=f"cannot be set aside .*{why}.*Move it") as raised:
        reopened(store).set_all_aside()
    assert raised.value.exit_code == ExitCode.CHECKPOINT
    assert payload.exists()
    assert resumed_step(store) == 10


def test_a_copy_in_the_link_s_place_that_cannot_be_moved_is_never_overwritten(store: Store) -> None:
    save(store, 10)
    link(store).unlink()
    link(store).write_bytes(b"perhaps all that was copied")
    set_aside_is_a_file(store.directory)
    with pytest.raises(IscError, match=rf"in the way.*set-aside is a file.*{store.link_name}"):
        reopened(store)
    with pytest.raises(FileExistsError, match="is no link"):
        link_durably(link(store), "somewhere")
    assert link(store).read_bytes() == b"perhaps all that was copied"


def test_a_kill_while_the_good_one_gets_a_higher_number_costs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 10)
    damaged = save(store, 20)
    DAMAGES["a flipped bit"](damaged, store.manifest_path(damaged))
    set_aside_is_a_file(store.directory)
    again = reopened(store)
    with monkeypatch.context() as killed:
        killed.setattr(again.repair, "make_latest", lambda entry: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again.choose()
    assert resumed_step(store) == 10
    go_on_with(store, damaged)


def test_what_is_compared_is_reported_while_it_is_compared(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verification, "SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    payload = store.prepare(10, False)
    store.save({"weights": bytes(3 * 2**20)}, payload, 10, {})
    heard: list[tuple[int, int]] = []

    def examine(entry: Entry) -> Manifest:
        return verification.verified(entry, lambda *counts: heard.append(counts))

    assert reopened(store).choose(examine) is not None
    size = payload.stat().st_size
    assert [total for _, total in heard] == [size] * len(heard)
    assert heard[0][0] == 2**20
    assert [compared for compared, _ in heard] == sorted({compared for compared, _ in heard})
    assert heard[-1] == (size, size)
    lines = [record.getMessage() for record in caplog.records if "[VERIFY]" in record.getMessage()]
    assert len(lines) == len(heard)
    name = store.entries()[-1].name
    assert lines[0] == f"[VERIFY] {name}: 1.05 MB of {size / 1e6:.3g} MB compared with their checksums"


def test_a_listing_says_what_verified_means_and_how_far_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory_report, "SECONDS", 0.0)
    save(store, 10)
    inventory_report.report(
        take_inventory(store.directory, True, inventory_report.ProgressLine()), as_json=False
    )
    said = capsys.readouterr()
    assert "verified: every byte of its files was compared with the checksums in its manifest" in said.out
    assert "whole:" not in said.out
    assert said.err.startswith(store.entries()[-1].name)
    inventory_report.report(take_inventory(store.directory), as_json=False)
    assert "their content was not read" in capsys.readouterr().out
