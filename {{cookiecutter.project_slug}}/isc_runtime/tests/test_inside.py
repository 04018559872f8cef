"""What objects of the user's hold is found, and what is large or of others is not looked into."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from isc_runtime.inside import GENERATORS, MOST_ITEMS, generators_inside, values_inside


class Crop:
    __module__ = "mine"

    def __init__(self) -> None:
        self.size, self.draws = 3, random.Random(1)

    def apply(self, index: int) -> int:
        return index


class Images(Dataset[int]):
    __module__ = "mine"

    def __init__(self) -> None:
        self.noise, self.transforms, self.itself = 0.5, [Crop()], self
        self.files = ["a"] * (MOST_ITEMS + 1)
        self.network, self.values = nn.Linear(1, 1), torch.zeros(3)
        self.rng = np.random.default_rng(0)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)  # as some of the user's do

    def __len__(self) -> int:
        return 4


def named(value: Any) -> dict[str, Any]:
    return {name: value for name, value, _ in values_inside(value, "data")}


def test_values_are_found_in_what_wraps_a_dataset() -> None:
    data: Subset[int] = Subset(ConcatDataset([Images()]), [0, 1])
    within = "data.dataset.datasets[0]"
    found = named(data)
    assert found[f"{within}.noise"] == 0.5
    assert found[f"{within}.transforms[0].size"] == 3
    generators = {name for name, value in found.items() if isinstance(value, GENERATORS)}
    assert generators == {f"{within}.transforms[0].draws", f"{within}.rng"}
    assert not [name for name in found if "files" in name or "network" in name or "values" in name]


def shifted(by: int, draws: random.Random) -> int:
    return by + draws.randrange(3)


def test_what_a_method_and_a_partial_are_bound_to_is_found() -> None:
    holder = Link(None)
    holder.after = [Crop().apply, partial(shifted, 1, draws=random.Random(0))]
    found = named(holder)
    assert found["data.after[0].size"] == 3
    assert found["data.after[1][0]"] == 1
    assert isinstance(found["data.after[1]['draws']"], random.Random)


def test_what_a_function_and_a_module_hold_is_found() -> None:
    draws, module, default = random.Random(0), nn.ModuleList([nn.Linear(1, 1)]), np.random.RandomState(0)
    module.__dict__["rng"] = np.random.default_rng(0)

    def collate(samples: list[Any], own: Any = default) -> Any:
        return draws.choice(samples), own

    holder = Link(collate)
    holder.module = module
    found = named(holder)
    assert found["data.after.draws"] is draws
    assert isinstance(found["data.after[0]"], np.random.RandomState)
    assert isinstance(found["data.module.rng"], np.random.Generator)
    assert not [name for name in found if "training" in name or "features" in name]
    assert generators_inside(holder).keys() == {".after.draws", ".after[0]", ".module.rng"}


def test_the_nearest_are_found_first() -> None:
    holder = Link(None)
    holder.near, holder.far = Crop(), [[[Link(None)] * 1 for _ in range(20)] for _ in range(20)]
    assert "data.near.draws" in named(holder)


@pytest.mark.parametrize("value", [range(3), np.zeros(3), [0] * (MOST_ITEMS + 1), object(), 3])
def test_what_holds_nothing_that_is_looked_at_is_no_error(value: Any) -> None:
    assert named(value) == {}


class Link:
    __module__ = "mine"

    def __init__(self, after: Any) -> None:
        self.number, self.after = 1, after
        self.module: Any = None
        self.near: Any = None
        self.far: Any = None


def test_an_endless_chain_is_looked_at_for_a_while() -> None:
    def chain() -> Iterator[Link]:
        last = None
        for _ in range(10_000):
            yield (last := Link(last))

    assert len(named(list(chain())[-1])) < 1000
