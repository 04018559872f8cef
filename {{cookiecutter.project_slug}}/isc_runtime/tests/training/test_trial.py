"""A step that computes the gradients several times leaves nothing behind where it goes astray."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.parallel import clip_gradients
from isc_runtime.tests.processes import differences, run_forked
from isc_runtime.training.guard import StepGuard
from isc_runtime.training.means import Mean, Totals
from isc_runtime.training.steps import take_step

OFF = GradScaler("cpu", enabled=False)


class Sharpness(torch.optim.SGD):
    """SAM: the gradient of a step is that of where the first one leads to."""

    def step(self, closure: Callable[[], float]) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        moves = [0.05 * each.grad for each in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, moves)
        closure()
        with torch.no_grad():
            torch._foreach_sub_(parameters, moves)
        super().step()


class Around(torch.optim.Optimizer):
    """SAM as it is mostly written: around another optimizer, whose state is not its own."""

    def __init__(self, parameters: Any) -> None:
        self.inner = torch.optim.AdamW(parameters)
        super().__init__(self.inner.param_groups[0]["params"], {})

    def step(self, closure: Callable[[], float]) -> None:  # type: ignore[override]
        closure()
        self.inner.step()


def plain_lbfgs(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)


class Training:
    """A model with running statistics; in one step one of the gradients is of data that are not finite."""

    def __init__(self, kind: Any, group: Group) -> None:
        torch.manual_seed(1)
        self.group, self.calls = group, 0
        self.first = nn.Linear(3, 3)
        self.model = nn.Sequential(self.first, nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.optimizer = kind(self.model.parameters())
        self.metrics: dict[str, Any] = {}
        self.guard = StepGuard(self.model, self.metrics, most=2)

    def gradients(self, inputs: Tensor, bad: tuple[int, ...], totals: Totals) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.model(inputs * (torch.inf if self.calls in bad else 1.0)).square().sum()
        self.calls += 1
        torch.autograd.backward(loss, 1 + (loss - loss).detach())
        totals.add({"loss": Mean(loss, len(inputs))})
        return clip_gradients(self.model, 1.0)

    def step(self, number: int, *bad: int) -> None:
        """Takes a step, in which so many gradients after the first one are bad."""
        inputs, self.calls = torch.randn(8, 3, generator=torch.Generator().manual_seed(number)), 0
        self.guard.remember()
        norm = self.gradients(inputs, bad, Totals(self.group))
        if self.guard.allows(norm, number, OFF, self.optimizer):
            take_step(self.optimizer, partial(self.gradients, inputs, bad), self.group)

    def state(self) -> Any:
        inner = getattr(self.optimizer, "inner", self.optimizer)
        states = self.model.state_dict(), self.optimizer.state_dict(), inner.state_dict()
        return [{**state} for state in states], dict(self.metrics)


@pytest.mark.parametrize("kind", [Sharpness, Around, plain_lbfgs])
def test_it_is_taken_back_and_counted(group: Group, kind: Any) -> None:
    with_one, without = Training(kind, group), Training(kind, group)
    for training in (with_one, without):
        training.step(1)
        training.step(2)
    with_one.step(3, 1, 2, 3, 4, 5)
    assert with_one.metrics["skipped"] == with_one.metrics["skipped_in_a_row"] == 1
    assert all(value.isfinite().all() for value in with_one.model.state_dict().values())
    one, other = with_one.state()[0], without.state()[0]
    if kind is plain_lbfgs:  # its state counts what it had computed until then
        one, other = one[:1], other[:1]
    assert differences(one, other) == []
    with_one.step(4)
    assert with_one.metrics["skipped_in_a_row"] == 0
    with_one.step(5, 1)
    with pytest.raises(IscError, match="2 steps in a row were not finite") as raised:
        with_one.step(6, 1)
    assert raised.value.exit_code is ExitCode.DIVERGED


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_first_step_that_is_taken_back_is_followed_by_others(group: Group, line_search: str | None) -> None:
    training = Training(partial(torch.optim.LBFGS, lr=0.01, max_iter=3, line_search_fn=line_search), group)
    training.step(1, 1)
    assert not training.optimizer.state or not any(training.optimizer.state.values())
    training.step(2)
    assert training.metrics["skipped"] == 1


def test_a_line_search_may_try_what_is_too_long(group: Group) -> None:
    search = partial(torch.optim.LBFGS, lr=1.0, max_iter=4, line_search_fn="strong_wolfe")
    training = Training(search, group)
    before = training.first.weight.detach().clone()
    training.step(1, 2)
    assert training.calls > 3
    assert training.metrics["skipped"] == 0
    assert not torch.equal(before, training.first.weight)


def test_all_ranks_take_it_back(tmp_path: Path) -> None:
    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            training = Training(Sharpness, group)
            training.step(1)
            before = training.first.weight.detach().clone()
            training.step(2, 1)
            assert torch.equal(before, training.first.weight)

    assert [ended.code for ended in run_forked(tmp_path, work)] == [0, 0]


def test_who_has_no_guard_is_told(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)

    def gradients(totals: Totals) -> Tensor:
        totals.add({"loss": Mean(weight.sum(), 1)})
        weight.grad = torch.full((1,), torch.nan)
        return torch.tensor(torch.nan)

    take_step(Sharpness([weight], lr=0.1), gradients, group)
    assert weight.tolist() == [1.0]
    assert "A step is taken back" in caplog.text


def test_a_scaler_that_is_asked_twice_is_told_of(group: Group) -> None:
    weight, scaler = nn.Parameter(torch.ones(1)), GradScaler("cpu")
    optimizer = Sharpness([weight], lr=0.1)

    def gradients(_: Totals) -> Tensor:
        torch.autograd.backward(scaler.scale(weight.sum()))
        scaler.unscale_(optimizer)
        return torch.ones(())

    gradients(Totals(group))
    with pytest.raises(IscError, match="An enabled GradScaler unscales once") as raised:
        take_step(optimizer, gradients, group)
    assert raised.value.exit_code is ExitCode.USAGE
