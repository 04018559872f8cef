"""A replica on each rank exchanges its gradients, whatever the model returns; or the start says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.parallel import parallelize, part_of_batch
from isc_runtime.ranks.replicas import _parts_of, _with_parts
from isc_runtime.ranks.reporting import reported
from isc_runtime.tests.processes import Ended, run_forked


@dataclass
class Answer:
    """What a model returns."""

    scores: Tensor
    pooled: list[Tensor]
    name: str = "none"

    def __post_init__(self) -> None:
        self.name += "."


class Pooled(nn.Module):
    """Returns also what no loss is made of, from a layer of its own; it has codes of a type for storage."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.trunk, self.scores, self.pool = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 2)
        self.codes = nn.Parameter(torch.ones(2, dtype=torch.int16), requires_grad=False)
        self.kind = kind

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.trunk(inputs * self.codes)
        return self.kind(self.scores(hidden), [self.pool(hidden)])


def of_scores(model: nn.Module, scale: float = 1.0) -> Tensor:
    loss: Tensor = model(torch.full((2, 2), scale)).scores.mean()
    return loss


def train(kind: Callable[..., Any], loss: Callable[..., Tensor], find_unused: bool = False) -> None:
    with reported(), process_group(Environment.read(), 60, 60) as group:
        torch.manual_seed(1)
        model = Pooled(kind)
        options = ParallelOptions(find_unused_parameters=find_unused)
        replica = parallelize(model, group, loss, options)
        for _ in range(2):
            model.zero_grad()
            with part_of_batch(replica, is_last=True):
                value = loss(replica, scale=1.0 + group.rank)
            torch.autograd.backward(value)
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            assert len(gradients) == 4
            assert all(map(torch.equal, *group.gather(gradients)))


def said(ended: list[Ended]) -> str:
    """By the rank that fell first, and what both ended with."""
    assert {one.code for one in ended} == {ExitCode.USAGE}, ended
    return "".join(one.output for one in ended)


def test_a_dataclass_may_hold_what_no_loss_is_made_of(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, lambda: train(Answer, of_scores))
    assert [one.code for one in ended] == [0, 0], ended


class Opaque:
    """What torch does not look into."""

    def __init__(self, scores: Tensor, pooled: list[Tensor]) -> None:
        self.scores, self.pooled = scores, pooled


@pytest.mark.parametrize("find_unused", [False, True])
def test_an_object_in_which_torch_finds_nothing_is_refused(tmp_path: Path, find_unused: bool) -> None:
    output = said(run_forked(tmp_path, lambda: train(Opaque, of_scores, find_unused)))
    assert "torch cannot tell which from what the model returns" in output
    assert "ready only once" not in output


def past_the_replica(model: nn.Module, scale: float = 1.0) -> Tensor:
    return of_scores(getattr(model, "module", model), scale)


def by_a_method(model: nn.Module, scale: float = 1.0) -> Tensor:
    loss: Tensor = model.pooled_for(scale)  # type: ignore[operator]
    return loss


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (past_the_replica, "computed without a call of the model that batch_loss is given"),
        (by_a_method, "wraps yours: 'DistributedDataParallel' object has no attribute 'pooled_for'"),
    ],
)
def test_a_loss_that_does_not_call_the_model_it_is_given_ends_the_start(
    tmp_path: Path, loss: Callable[..., Tensor], words: str
) -> None:
    """Each rank would train by itself, and nobody would say so before the first save."""
    output = said(run_forked(tmp_path, lambda: train(Answer, loss)))
    assert words in output
    assert "Traceback" not in output


def test_a_dataclass_is_taken_apart_and_put_together_as_it_was() -> None:
    answer = Answer(torch.zeros(1), [torch.ones(1)])
    parts, context = _parts_of(answer)
    again = _with_parts([None, *parts[1:]], context)
    assert isinstance(again, Answer)
    assert again.scores is None
    assert (again.pooled, again.name) == (answer.pooled, "none.")
    assert Answer not in _pytree.SUPPORTED_NODES, "the start makes them known, on each rank"
