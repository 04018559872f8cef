"""What changes in a training and is in no checkpoint is named, and what merely is there is not."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.unsaved import Unsaved
from isc_runtime.environment import Environment
from isc_runtime.logs import configure_logging
from isc_runtime.ranks.group import process_group
from isc_runtime.sampler import ElasticSampler
from isc_runtime.tests.processes import run_forked
from isc_runtime.training.loaders import Data

ALONE: Any = SimpleNamespace(world_size=1)


class Block(nn.Module):
    __module__ = "mine"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[float] = []
        self.own = torch.Generator()
        self.mask: Tensor | None = None
        self.masks: dict[int, Tensor] = {}
        self.linear = nn.Linear(2, 2)
        self.weights = [self.linear.weight]
        self.register_buffer("mean", torch.zeros(2), persistent=False)
        self.register_buffer("saved", torch.zeros(2))


class Telling(Block):
    __module__ = "mine"

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}


class Running:
    __module__ = "mine"

    def __init__(self) -> None:
        self.total, self.values = 0.0, torch.zeros(3, dtype=torch.complex64)


class Images:
    __module__ = "mine"

    def __init__(self) -> None:
        self.noise, self.cache, self.epoch = np.random.default_rng(0), {0: 1}, 0

    def __getitem__(self, index: int) -> int:
        return index


class Trainer:
    __module__ = "mine"
    left_out: tuple[str, ...] = ()

    def __init__(self, block: Block) -> None:
        self.model, self.metrics = block, {"best": 0.0}
        self.weight, self.replay = 0.0, deque([torch.zeros(2)])
        self.kept = torch.zeros(2, dtype=torch.bfloat16)
        self.running, self.draws, self.old = Running(), random.Random(0), np.random.RandomState(0)
        self.data = Data(Images(), [1])  # type: ignore[arg-type]
        self.views = {"weight": block.linear.weight.view(-1)}

    def state(self) -> State:
        return {"model": self.model, "metrics": self.metrics}


def changed(
    change: Callable[[Any], Any], block: type[Block] = Block, left_out: tuple[str, ...] = ()
) -> list[str]:
    """What is named after something was done to a training."""
    training = Trainer(block())
    training.left_out = left_out
    unsaved = Unsaved(training, ALONE)
    change(training)
    state = {"model": training.model.state_dict(), "metrics": training.metrics}
    found = unsaved.changed(state)
    assert unsaved.changed(state) == [], "once"
    return found


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda t: setattr(t.model, "calls", 1), "model.calls"),
        (lambda t: t.model.seen.append(1.0), "model.seen"),
        (lambda t: torch.rand(1, generator=t.model.own), "model.own"),
        (lambda t: t.model.mean.add_(1), "model.mean"),
        (lambda t: setattr(t, "weight", 0.1), "Trainer.weight"),
        (lambda t: t.replay.append(torch.ones(2)), "Trainer.replay"),
        (lambda t: t.replay[0].add_(1), "Trainer.replay"),
        (lambda t: t.kept.add_(1), "Trainer.kept"),
        (lambda t: vars(t.running).update(total=1.0), "Trainer.running.total"),
        (lambda t: t.running.values.add_(1), "Trainer.running.values"),
        (lambda t: t.draws.random(), "Trainer.draws"),
        (lambda t: t.old.rand(), "Trainer.old"),
        (lambda t: t.data.training.noise.random(), "Trainer.data.training.noise"),
        (lambda t: vars(t.data.training).update(epoch=1), "Trainer.data.training.epoch"),
    ],
)
def test_what_changes_and_is_not_saved_is_named(change: Callable[[Any], Any], name: str) -> None:
    assert changed(change) == [name]
    assert changed(change, left_out=(name.removeprefix("Trainer."),)) == []
    assert changed(change, left_out=(name,)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda t: None,
        lambda t: t.model.eval(),
        lambda t: t.metrics.update(best=1.0),
        lambda t: t.model.saved.add_(1),
        lambda t: t.model.linear.weight.data.add_(1),  # a list and a dict hold it, or a view of it
        lambda t: vars(t.model).update(mask=torch.ones(2)),
        lambda t: t.model.masks.update({3: torch.ones(3)}),
        lambda t: t.data.training.cache.update({1: 2}),
    ],
)
def test_what_is_saved_or_a_cache_is_not_named(change: Callable[[Any], Any]) -> None:
    assert changed(change) == []


def test_a_module_that_tells_of_itself_is_believed() -> None:
    assert changed(lambda t: setattr(t.model, "calls", 1), Telling) == []


def test_a_mask_that_changes_once_more_is_no_cache() -> None:
    training = Trainer(Block())
    unsaved = Unsaved(training, ALONE)
    training.model.mask = torch.ones(2)
    assert unsaved.changed({}) == []
    training.model.mask = torch.zeros(2)
    assert unsaved.changed({}) == ["model.mask"]


def test_what_is_looked_at_is_not_copied() -> None:
    """It may be larger than the memory: 160 GB here."""
    pair = np.zeros(2)
    training: Any = Trainer(Block())
    training.large = np.broadcast_to(pair, (10**10, 2))
    unsaved = Unsaved(training, ALONE)
    pair += 1
    assert unsaved.changed({}) == ["Trainer.large"]


def test_fewer_and_fewer_saves_look(caplog: pytest.LogCaptureFixture) -> None:
    """The 1st, 2nd, 4th, 8th, ... of a start."""
    training = Trainer(Block())
    unsaved = Unsaved(training, ALONE)
    for number in range(1, 9):
        training.weight = 1.0 if number >= 5 else 0.0
        unsaved.saved({})
        assert ("Trainer.weight changes in training" in caplog.text) == (number == 8)
    assert "or add 'weight' to Trainer.left_out" in caplog.text


def test_what_is_saved_by_the_identity_of_a_parameter_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """As a Lookahead of many copies does."""
    training: Any = Trainer(Block())
    optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    parts = {**training.state(), "optimizer": optimizer}
    training.state = lambda: parts
    unsaved = Unsaved(training, ALONE)
    (held,), weight = optimizer.param_groups[0]["params"], training.model.linear.weight
    for name, parameter in [("slow", weight), ("slow", weight), ("", weight), ("fast", held)]:
        unsaved.saved({name: {"state": [{id(parameter): torch.ones(1)}]}, "metrics": {3: 4}})
    assert caplog.text.count("saves something by the id() of a parameter") == 2


def test_the_first_save_after_an_evaluation_looks_whichever_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """A model that adds its adapters to the weights for an evaluation, and keeps in mind that it did."""
    training = Trainer(Block())
    unsaved = Unsaved(training, ALONE)
    for _ in range(4):
        unsaved.saved({})
    training.model.eval()
    training.model.calls = 1
    unsaved.saved({})
    assert "model.calls changes in training" in caplog.text


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("iterator", next, "Let it begin where it was: by a loaders.make_position of its own"),
        ("running", lambda it: setattr(it, "total", 1.0), "or give what holds it a state_dict"),
        (
            "sampler",
            lambda it: setattr(it, "batch_size", 8),
            "Set it before each epoch, by what the position",
        ),
    ],
)
def test_what_to_do_is_said(
    name: str, change: Callable[[Any], Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    training: Any = Trainer(Block())
    training.iterator = iter([1, 2, 3])
    training.sampler = ElasticSampler(64, 4)
    parts = {**training.state(), "sampler": training.sampler}
    training.state = lambda: parts
    unsaved = Unsaved(training, ALONE)
    change(getattr(training, name))
    unsaved.saved({})
    assert said in caplog.text
    assert caplog.text.count("[STATE]") == 1


def test_what_cannot_be_asked_stops_no_training() -> None:
    training: Any = Trainer(Block())
    training.model.own = torch.ones(2).to_sparse()
    unsaved = Unsaved(training, ALONE)
    training.state = None
    assert unsaved.changed({}) == []


def test_ranks_that_come_apart_are_warned(tmp_path: Path) -> None:
    """Once: an optimizer that steps in hooks of the backward pass has this rank's gradients only."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            configure_logging(group.is_master)
            training = Trainer(Block().requires_grad_(False))
            for parameter in training.model.parameters():
                parameter.fill_(1.0)
            unsaved = Unsaved(training, group)
            unsaved.saved({"model": training.model.state_dict()})
            print("equal so far")
            training.model.linear.bias[0] = group.rank
            for _ in range(3):
                unsaved.saved({"model": training.model.state_dict()})

    ended = run_forked(tmp_path, work)
    assert [one.code for one in ended] == [0, 0], ended
    before, _, after = ended[0].output.partition("equal so far")
    assert "[STATE]" not in before
    assert after.count("have come apart: model.linear.bias of rank 1 is not that of rank 0") == 1


@pytest.mark.parametrize("when", ["from the start", "later", "not any more"])
def test_a_list_that_a_dict_holds_from_the_start_is_saved_with_it(when: str) -> None:
    """A resume fills that list itself; one that came into the dict later it could not."""
    trainer: Any = Trainer(Block())
    trainer.losses = [1.0]
    if when != "later":
        trainer.metrics["losses"] = trainer.losses
    unsaved = Unsaved(trainer, ALONE)
    trainer.metrics["losses"] = [5.0] if when == "not any more" else trainer.losses
    for _ in range(2):
        trainer.losses[0] += 1
        found = unsaved.changed({})
    assert ("Trainer.losses" in unsaved._named) == (when != "from the start"), found
