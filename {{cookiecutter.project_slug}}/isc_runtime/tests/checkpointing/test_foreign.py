"""What another program has written is never taken for nothing, nor deleted."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from isc_runtime.checkpointing.on_disk.foreign import described
from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.checkpointing.on_disk.inventory_report import report
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.test_store import save
from isc_runtime.tests.conftest import open_store
from isc_runtime.tests.processes import Place

STATE: dict[str, Any] = {"model": {"w": torch.ones(2)}, "optimizer": {}, "epoch": 7}
PLACES = {
    "artifact": ("AtomicDirectory_checkpoint_0/checkpoint.pt", "best_checkpoint_3_force/checkpoint.pt"),
    "local": ("checkpoint_20250101-120000_500.pth", "model_epoch_3.pt"),
}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", ["artifact", "local"])
def test_what_the_usual_recipe_left_stops_the_start(
    kind: str, number: int, tmp_path: Path, group: Group
) -> None:
    file = tmp_path / PLACES[kind][number]
    file.parent.mkdir(exist_ok=True)
    torch.save(STATE, file)
    store = open_store(kind, tmp_path, group)
    with pytest.raises(IscError, match="did not write") as stopped:
        store.choose()
    said = stopped.value
    assert f"{PLACES[kind][number]}: " in said.where
    assert "torch.save, keys model (1), optimizer (0), epoch = 7" in said.where
    assert f"python -m isc_runtime import {file} " in said.hint
    assert "--fresh" in said.hint
    assert "not sure to keep that" in said.hint, "a sync of the ISC deletes what no saver has linked"
    assert file.exists()
    if kind == "artifact":
        assert f"saver {('AtomicDirectory', 'best')[number]}" in said.where


def saved_by_torch(file: Path, **options: Any) -> None:
    torch.save(STATE, file, **options)


def saved_without_crc(file: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, file)
    finally:
        torch.serialization.set_crc32_options(before)


def cut_short(file: Path) -> None:
    torch.save({"w": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])


WRITERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "without checksums": ("last.pt", saved_without_crc, "torch.save, keys model (1)"),
    "in the format of old": (
        "last.pth.tar",
        lambda file: saved_by_torch(file, _use_new_zipfile_serialization=False),
        "torch.save of before 1.6, keys model (1), optimizer (0), epoch = 7",
    ),
    "Lightning's": ("a/b/c/epoch=3.ckpt", saved_by_torch, "epoch = 7"),
    "safetensors": ("model.safetensors", lambda file: save_file(STATE["model"], file), "safetensors, keys w"),
    "transformers' of old": ("pytorch_model.bin", saved_by_torch, "torch.save"),
    "a plain pickle": ("x.pt", lambda file: file.write_bytes(pickle.dumps({"a": 1})), "a pickle, keys a = 1"),
    "cut short": ("copy/model.pt", cut_short, "torch.save, keys unknown"),
    "nobody knows": ("model.ckpt", lambda file: file.write_bytes(b"something"), "unknown format"),
    "of torch.distributed": (
        "step-100",
        lambda folder: save_distributed({"model": STATE["model"]}, checkpoint_id=folder),
        "torch.distributed.checkpoint, keys model.w",
    ),
}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("case", WRITERS)
@pytest.mark.parametrize("kind", ["artifact", "local"])
def test_whatever_looks_like_a_checkpoint_stops_the_start(
    kind: str, case: str, tmp_path: Path, group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, words = WRITERS[case]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True, parents=True)
    write(file)
    with pytest.raises(IscError, match="did not write") as stopped:
        open_store(kind, tmp_path, group).choose()
    assert name in stopped.value.where
    assert words in stopped.value.where
    inventory = take_inventory(tmp_path)
    assert report(inventory, as_json=False) == ExitCode.CHECKPOINT
    said = capsys.readouterr().out
    assert words in said
    assert "A resume stops with an error" in said
    assert "isc_runtime import" in said

    store = open_store(kind, tmp_path, group)
    store.set_all_aside()
    assert store.choose() is None, "as --fresh has it"
    assert not file.exists()
    (moved,) = (tmp_path / SET_ASIDE).glob(f"*/{name}")
    assert str(described(moved)) == words or words in str(described(moved))


def test_what_only_has_a_name_like_one_is_none(tmp_path: Path, group: Group) -> None:
    (tmp_path / "train.bin").write_bytes(b"\x01\x02tokens")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "zeros.pt").write_bytes(bytes(100))
    (tmp_path / "notes.txt").write_text("PK")
    (tmp_path / "link.pt").symlink_to("elsewhere")
    assert open_store("local", tmp_path, group).choose() is None
    assert take_inventory(tmp_path).foreign == []


def test_beside_an_own_checkpoint_others_are_left_alone_and_listed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    save(store, 10)
    file = store.directory / "old" / "last.pth"
    file.parent.mkdir()
    torch.save(STATE, file)
    chosen = store.choose()
    assert chosen is not None
    assert file.exists()
    assert report(take_inventory(store.directory), as_json=False) == 0
    said = capsys.readouterr().out
    assert "old/last.pth" in said
    assert "No resume takes these" in said


def test_the_recipe_s_own_directories_are_called_foreign_and_not_damaged(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"AtomicDirectory_checkpoint_{number}").mkdir()
        torch.save(STATE, tmp_path / f"AtomicDirectory_checkpoint_{number}" / "checkpoint.pt")
    (tmp_path / "AtomicDirectory.latest_checkpoint").symlink_to(tmp_path / "AtomicDirectory_checkpoint_2")
    inventory = take_inventory(tmp_path, verify=True)
    (series,) = inventory.series
    assert [checkpoint.state for checkpoint in series.checkpoints] == ["foreign"] * 3
    assert "epoch = 7" in series.checkpoints[0].reason
    assert inventory.foreign == []
    assert inventory.is_stuck


def test_another_saver_s_are_no_obstacle_beside_an_own_one(tmp_path: Path, group: Group) -> None:
    for number in range(2):
        (tmp_path / f"run_checkpoint_{number}").mkdir()
        torch.save(STATE, tmp_path / f"run_checkpoint_{number}" / "checkpoint.pt")
    assert take_inventory(tmp_path).is_stuck
    store = open_store("local", tmp_path, group)
    save(store, 10)
    assert store.choose() is not None
    inventory = take_inventory(tmp_path)
    assert [series.is_stuck for series in inventory.series] == [False, False]
    assert "No resume looks at these" in inventory.series[1].outlook


@pytest.mark.parametrize("kind", ["artifact", "local"])
def test_an_own_one_by_another_name_is_not_taken_for_nothing(kind: str, tmp_path: Path, group: Group) -> None:
    torch.save({**STATE, "rng": [], "saves": 3}, tmp_path / "mine.pth")
    with pytest.raises(IscError, match=r"lost their manifest.*mine\.pth: torch\.save, keys model"):
        open_store(kind, tmp_path, group).choose()


def test_an_own_first_save_that_was_cut_short_is_none(store: Store) -> None:
    payload = store.prepare(1, force=False)
    torch.save({"model": {}, "rng": [], "saves": 1}, payload)
    again = open_store("local" if payload.suffix == ".pth" else "artifact", store.directory, store.group)
    assert again.choose() is None


def test_a_training_does_not_start_over_beside_one(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.checkpoints.mkdir()
    torch.save({"model": {}, "optimizer": {}}, place.checkpoints / "last.pth")
    ended = place.train("--epochs", "1")
    assert ended.code == 5, ended.output
    assert "last.pth" in ended.output
    shutil.rmtree(place.checkpoints)
    assert place.train("--epochs", "1").code == 0


def damaged_archives(directory: Path) -> None:
    """One bit is another one in each: Python's own reader stumbles over it in a way of its own."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}q\x00." * 50)
    content = whole.getvalue()
    stream, entry = content.index(b"data.pkl") + 8, content.index(b"PK\x01\x02")
    for name, place, value in (
        *(("stream", stream, 0xFF), ("version", entry + 6, 64), ("secret", entry + 8, 1)),
        *(("method", entry + 10, 97), ("name", content.rindex(b"x/data"), 0xFF)),
    ):
        flag = {content.index(b"PK\x03\x04") + 7: 8, entry + 9: 8} if name == "name" else {}
        changed = bytearray(content)
        for at, one in {place: value, **flag}.items():
            changed[at] = one
        (directory / f"{name}.pt").write_bytes(changed)
    number = 10**5000
    (directory / "number.pth").write_bytes(pickle.dumps({"torch": number}))
    (directory / "key.pth").write_bytes(pickle.dumps({number: "torch"}))
    deep = b'{"a":' * 200_000
    (directory / "deep.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)


def test_what_no_reader_can_read_is_no_traceback(tmp_path: Path, group: Group) -> None:
    damaged_archives(tmp_path)
    assert take_inventory(tmp_path).is_stuck
    with pytest.raises(IscError) as raised:
        open_store("local", tmp_path, group).choose()
    assert raised.value.exit_code is ExitCode.CHECKPOINT
