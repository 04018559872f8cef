"""A snapshot stays as it is, and its memory is used again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.snapshot import Snapshot, expected_size, first_not_finite, size_of


def test_a_snapshot_does_not_change_with_its_original() -> None:
    state: dict[str, Any] = {"a": torch.ones(3), "b": [torch.zeros(2), ("x", torch.ones(1))], "c": 4}
    taken = Snapshot().take(state)
    state["a"].zero_()
    state["b"][1][1].zero_()
    assert taken["a"].tolist() == [1, 1, 1]
    assert taken["b"][1][1].tolist() == [1]
    assert (taken["b"][1][0], taken["c"]) == ("x", 4)


def test_buffers_are_allocated_once() -> None:
    snapshot, weights = Snapshot(), torch.ones(1000)
    first = snapshot.take({"w": weights})["w"].data_ptr()
    assert snapshot.take({"w": weights + 1})["w"].data_ptr() == first
    assert snapshot.take({"w": torch.ones(1000, dtype=torch.float64)})["w"].dtype == torch.float64


def test_the_size_of_a_state_is_that_of_its_tensors() -> None:
    assert size_of({"a": torch.ones(10), "b": [torch.ones(5, dtype=torch.float64)], "c": "text"}) == 80


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"amsgrad": True, "fused": True}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.Adafactor, {}),
    ],
)
def test_the_size_of_a_state_is_known_before_the_first_step(
    kind: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    model = nn.Linear(30, 20)
    optimizer = kind(model.parameters(), **options)
    before = [parameter.clone() for parameter in model.parameters()]
    expected = expected_size([model, optimizer, {"losses": torch.ones(5)}])
    assert not optimizer.state
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    torch.autograd.backward(model(torch.ones(1, 30)).sum())
    optimizer.step()
    assert expected == size_of([model.state_dict(), optimizer.state_dict(), torch.ones(5)])


def test_what_is_not_finite_is_named() -> None:
    state = {
        "model": {"good": torch.ones(2), "count": torch.tensor(1), "bad": torch.tensor([1.0, float("nan")])}
    }
    assert first_not_finite(state) == "model.bad"
    del state["model"]["bad"]
    assert first_not_finite(state) is None
