"""The size of a checkpoint is known before there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.saving.state_size import expected_size, size_of


def test_the_size_of_a_state_is_that_of_its_tensors() -> None:
    assert size_of({"a": torch.ones(10), "b": [torch.ones(5, dtype=torch.float64)], "c": "text"}) == 80


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"amsgrad": True, "fused": True}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.SGD, {"lr": 0.1}),
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


def test_the_size_is_that_of_all_groups_of_all_optimizers() -> None:
    models = [nn.Linear(30, 20), nn.Linear(5, 4)]
    groups = [{"params": [parameter]} for parameter in models[0].parameters()]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups),
        torch.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9),
    ]
    expected = expected_size([*models, *optimizers])
    for model, optimizer in zip(models, optimizers, strict=True):
        torch.autograd.backward(model(torch.ones(1, model.in_features)).sum())
        optimizer.step()
    made = size_of([[one.state_dict() for one in models], [one.state_dict() for one in optimizers]])
    assert expected == made == expected_size([*models, *optimizers]), "after a step it is what is there"


class Own(torch.optim.Optimizer):
    """An optimizer with attributes of its own, whose step must not be taken to see what it makes."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.history: list[float] = []

    def step(self, closure: Any = None) -> Any:
        raise AssertionError("nobody asked for a step")


@pytest.mark.parametrize("kind", [Own, torch.optim.Adafactor, torch.optim.SparseAdam, torch.optim.LBFGS])
def test_of_other_optimizers_only_the_least_is_known(kind: Any) -> None:
    model = nn.Linear(30, 20)
    optimizer = kind(model.parameters())
    assert expected_size([model, optimizer]) == size_of(model.state_dict())
    assert not optimizer.state
