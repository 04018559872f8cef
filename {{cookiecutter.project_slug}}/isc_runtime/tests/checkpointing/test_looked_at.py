"""What a training may change is looked at wherever it is held, and no more often than once."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

from isc_runtime.checkpointing.looked_at import look
from isc_runtime.checkpointing.marks import differs
from isc_runtime.sampler import ReplayableDataset
from isc_runtime.training.workers import PreparedLoader


class Lookahead(torch.optim.SGD):
    """Counts its steps where torch's state_dict does not look."""

    __module__ = "mine"

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.count = 0
        self.slow = [each.detach().clone() for group in self.param_groups for each in group["params"]]

    def step(self) -> None:  # type: ignore[override]
        super().step()
        self.count += 1


class Telling(Lookahead):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "count": self.count}


class Held:
    __module__ = "mine"

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Keeping(Held):
    """Saves what it holds."""

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Net(nn.Sequential):
    __module__ = "mine"

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2), nn.Dropout(0.1))
        self.center = Held(value=torch.zeros(2))


class Noisy(Dataset[Any]):
    __module__ = "mine"

    def __init__(self) -> None:
        self.rng, self.noise = np.random.default_rng(0), 0.0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


class Trainer:
    __module__ = "mine"

    def __init__(self, optimizer: type[Lookahead] = Lookahead) -> None:
        self.model = Net()
        self.optimizer = optimizer(self.model.parameters())
        self.data = SimpleNamespace
        self.saved = Keeping(inner=Held(n=0))
        self.callbacks = [Held(n=0, trainer=self), self.saved.inner]  # type: ignore[attr-defined]
        self.one, self.other = (Held(shared=self.callbacks) for _ in range(2))

    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "saved": self.saved}


def changed(training: Trainer, change: Any) -> list[str]:
    own = frozenset(each.untyped_storage().data_ptr() for each in training.model.parameters())
    before = look(training, "Trainer", own, {})
    change(training)
    after = look(training, "Trainer", own, {})
    assert before.keys() == after.keys()
    return [name for name, mark in after.items() if differs(before[name], mark)]


def take_step(training: Trainer) -> None:
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()


def test_what_an_optimizer_of_the_user_s_keeps_in_attributes() -> None:
    assert changed(Trainer(), take_step) == ["optimizer.count"]
    assert changed(Trainer(Telling), take_step) == [], "it says itself what it saves"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda t: setattr(t.model[1], "p", 0.2), "model.1.p"),
        (lambda t: t.model.center.value.add_(1), "model.center.value"),
        (lambda t: vars(t.callbacks[0]).update(n=1), "Trainer.callbacks"),
        (lambda t: vars(t.saved.inner).update(n=1), None),
        (lambda t: t.model.eval(), None),
    ],
)
def test_what_objects_and_modules_hold(change: Any, name: str | None) -> None:
    """In two objects it is named once, and not if it is in a third one that saves what it holds."""
    assert changed(Trainer(), change)[:1] == ([name] if name else [])


def test_a_dataset_within_others_and_a_loader_of_the_user_s() -> None:
    training: Any = Trainer()
    data = random_split(Noisy(), [2, 2])
    drawn = torch.Generator()
    training.data = Held(training=data[0])
    training.second = DataLoader(data[1], shuffle=True, generator=drawn)
    training.loader = PreparedLoader(ReplayableDataset(data[0]), generator=torch.Generator())
    found = changed(training, lambda t: data[0].dataset.rng.random())  # type: ignore[attr-defined]
    assert found == ["Trainer.data.training.dataset.rng"]
    assert changed(training, lambda t: list(t.second)) == ["Trainer.second.generator"]
    assert changed(training, lambda t: iter(t.loader)) == []


def test_generators_of_the_project_s_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = {"mine": "train.py", "mine_too": "parts/noise.py", "of_others": ".venv/site-packages/a.py"}
    for name, place in places.items():
        module: Any = ModuleType(name)
        module.__file__, module.RNG = str(tmp_path / place), random.Random(0)
        monkeypatch.setitem(sys.modules, name, module)

    def draw(_: Any) -> None:
        for name in places:
            sys.modules[name].RNG.random()

    assert changed(Trainer(), draw) == ["train.py:RNG", "parts/noise.py:RNG"]
