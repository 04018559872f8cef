"""Two checkpoints are compared bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.on_disk.manifest import Manifest
from isc_runtime.errors import IscError
from isc_runtime.rehearsal.weights import differences


def save_weights(directory: Path, **state: object) -> Path:
    directory.mkdir()
    torch.save(state, directory / "checkpoint.pt")
    manifest = Manifest.of([directory / "checkpoint.pt"], 1, "2026-11-24T00:00:00+00:00", {})
    manifest.write(directory / "manifest.json")
    return directory


def test_weights_are_compared_bit_for_bit(tmp_path: Path) -> None:
    weights, optimizer = {"w": torch.tensor([0.0, float("nan")])}, {"lr": 0.1, "state": [torch.ones(2)]}
    one = save_weights(tmp_path / "1", model=weights, optimizer=optimizer)
    same = save_weights(tmp_path / "2", model=weights, optimizer=optimizer)
    assert differences(one, same) == []
    other = {"w": torch.tensor([-0.0, float("nan")])}
    wrong = save_weights(tmp_path / "3", model=other, optimizer={**optimizer, "lr": 0.2})
    assert differences(one, wrong) == ["optimizer.lr=0.1 and not 0.2", "model.w"]


def test_plain_numbers_are_compared_by_their_bits(tmp_path: Path) -> None:
    nan = float("nan")
    one = save_weights(tmp_path / "1", model={}, metrics={"a": nan, "b": 0.0, "c": [1j * nan], "d": 1})
    same = save_weights(tmp_path / "2", model={}, metrics={"a": nan, "b": 0.0, "c": [1j * nan], "d": 1})
    assert differences(one, same) == []
    wrong = save_weights(
        tmp_path / "3", model={}, metrics={"a": 1.0, "b": -0.0, "c": [1j], "d": torch.ones(2)}
    )
    found = differences(one, wrong)
    assert [text.partition("=")[0] for text in found] == [
        f"metrics.{name}" for name in ("a", "b", "c.0", "d")
    ]
    assert found[1] == "metrics.b=0.0 and not -0.0"


def test_what_is_not_there_is_not_none(tmp_path: Path) -> None:
    one = save_weights(tmp_path / "1", model={}, metrics={"best": None}, more=None)
    other = save_weights(tmp_path / "2", model={}, metrics={})
    assert differences(one, other) == ["metrics.best=None and not nothing", "more=None and not nothing"]


def test_all_parts_are_compared_but_what_an_interruption_may_change(tmp_path: Path) -> None:
    one = save_weights(tmp_path / "1", model={}, average={"n": torch.tensor(3)}, saves=4, rng=[1])
    other = save_weights(
        tmp_path / "2", model={}, average={"n": torch.tensor(9)}, saves=5, rng=[2], ema={"w": 1}
    )
    assert differences(one, other) == ["ema=nothing and not {'w': 1}", "average.n"]


def test_a_checkpoint_without_weights_is_no_equal_one(tmp_path: Path) -> None:
    one, other = (save_weights(tmp_path / name, metrics={}) for name in "ab")
    with pytest.raises(IscError, match=r"cannot be compared: .*checkpoint\.pt\. It has to"):
        differences(one, other)
