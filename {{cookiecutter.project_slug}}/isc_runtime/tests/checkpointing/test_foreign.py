"""What another program has written is never taken for nothing, nor deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.conftest import open_store
from isc_runtime.tests.processes import Place

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
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": {}}, file)
    store = open_store(kind, tmp_path, group)
    with pytest.raises(IscError, match="did not write") as stopped:
        store.choose()
    assert PLACES[kind][number] in stopped.value.where
    assert "--fresh" not in stopped.value.hint
    assert file.exists()


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
