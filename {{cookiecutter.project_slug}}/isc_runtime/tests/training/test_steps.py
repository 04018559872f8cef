"""Optimizers that ask for the loss several times get it, alike on all ranks; others are not disturbed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.tests.processes import run_forked
from isc_runtime.tests.small_training import FEATURES, Network
from isc_runtime.training.means import Mean, Totals
from isc_runtime.training.steps import take_step


class Descent(torch.optim.SGD):
    """As people write it: its `step` takes nothing."""

    def step(self) -> None:  # type: ignore[override]
        super().step()


class TrustRatio(torch.optim.Optimizer):
    """What LAMB and LARS do: a step in proportion to the norm of a weight, which they read as a number."""

    def __init__(self, parameters: Any, read: Callable[[Tensor], Any]) -> None:
        super().__init__(parameters, {})
        self.read = read

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            weight, size = self.read(parameter.norm()), self.read(parameter.grad.norm())
            ratio = weight / size if weight > 0 and size > 0 else 1.0
            parameter.sub_(0.1 * ratio * parameter.grad)


def stepped(group: Group, parallelism: str, read: Callable[[Tensor], Any]) -> dict[str, Any]:
    """The weights after a step with such an optimizer, whole, by name."""
    torch.manual_seed(3)
    model = build(lambda: Network().eval(), group, ParallelOptions(parallelism))
    torch.manual_seed(4)
    torch.autograd.backward(model(torch.randn(4, FEATURES)).square().sum())
    take_step(TrustRatio(model.parameters(), read), lambda _: torch.zeros(()), group)
    weights: dict[str, Any] = dict(model.named_parameters())
    return {name: getattr(one, "full_tensor", lambda one=one: one)() for name, one in weights.items()}


@pytest.mark.parametrize("read", [Tensor.item, float, Tensor.tolist, lambda norm: norm])
def test_a_norm_is_that_of_the_whole_weight(tmp_path: Path, read: Callable[[Tensor], Any]) -> None:
    """Torch would give each rank that of its own shard, and say nothing."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            whole, sharded = (stepped(group, way, read) for way in ("ddp", "fsdp"))
            for name, weight in whole.items():
                torch.testing.assert_close(sharded[name], weight)

    ended = run_forked(tmp_path, work)
    assert [end.code for end in ended] == [0, 0], ended


class NovoGrad(torch.optim.Optimizer):
    """A norm of each layer is kept: no number is read of it."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            norm = (parameter.grad * parameter.grad).sum()
            norms = torch._foreach_norm([parameter, parameter.grad])
            state["norm"] = norm.mul_(0.02).add_(state.get("norm", norm) * 0.98)
            parameter.sub_(parameter.grad / (state["norm"].sqrt() + norms[0] + norms[1]))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adafactor": partial(torch.optim.Adafactor, lr=0.1),
    "NovoGrad": NovoGrad,
    "NAdam": partial(torch.optim.NAdam, lr=0.1),
}


def after_steps(
    group: Group, parallelism: str, optimizer: Callable[[Any], torch.optim.Optimizer]
) -> dict[str, Any]:
    """The weights after three steps of an optimizer, whole, by name."""
    torch.manual_seed(3)
    model = build(lambda: Network().eval(), group, ParallelOptions(parallelism))
    steps = optimizer(model.parameters())
    for seed in range(3):
        torch.manual_seed(seed)
        steps.zero_grad()
        torch.autograd.backward(model(torch.randn(256, FEATURES)).square().sum())
        take_step(steps, lambda _: torch.zeros(()), group)
    weights: dict[str, Any] = dict(model.named_parameters())
    return {name: getattr(one, "full_tensor", lambda one=one: one)() for name, one in weights.items()}


def test_optimizers_with_norms_take_the_same_steps_with_sharded_weights(tmp_path: Path) -> None:
    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            for optimizer in OPTIMIZERS.values():
                whole, sharded = (after_steps(group, way, optimizer) for way in ("ddp", "fsdp"))
                for name, weight in whole.items():
                    torch.testing.assert_close(sharded[name], weight)

    ended = run_forked(tmp_path, work)
    assert [end.code for end in ended] == [0, 0], ended


class Quadratic:
    """The distance of one number from another, which each rank has for itself.

    Attributes:
        asked: how often the gradient was computed.
    """

    def __init__(self, group: Group, target: float) -> None:
        self.group, self.target, self.asked = group, target, 0
        self.value = torch.zeros(1, requires_grad=True)

    def gradients(self, totals: Totals) -> Tensor:
        self.asked += 1
        self.value.grad = None
        loss = (self.value - self.target).square().sum()
        torch.autograd.backward(loss)
        assert self.value.grad is not None
        self.value.grad = self.group.sum(self.value.grad) / self.group.world_size
        totals.add({"loss": Mean(loss, 1)})
        return self.value.grad.norm()


def lbfgs(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=1.0, max_iter=6, line_search_fn="strong_wolfe")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, Descent])
def test_who_needs_no_closure_computes_nothing_again(group: Group, kind: Any) -> None:
    work = Quadratic(group, 3.0)
    optimizer = kind([work.value], lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # which puts a step of its own around the optimizer's
    work.gradients(Totals(group))
    take_step(optimizer, work.gradients, group)
    assert work.asked == 1
    assert float(work.value.detach()) > 0


def test_who_asks_again_gets_the_gradients_where_it_is_now(group: Group) -> None:
    work = Quadratic(group, 3.0)
    optimizer = lbfgs([work.value])
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    take_step(optimizer, work.gradients, group)
    assert work.asked > 2
    assert float(work.value.detach()) == pytest.approx(3.0, abs=1e-3)


def test_all_ranks_search_the_same_line(tmp_path: Path) -> None:
    """By its own loss each would ask differently often, and wait for the other for ever."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            task = Quadratic(group, 1000.0 * group.rank)
            optimizer = lbfgs([task.value])
            for _ in range(3):
                take_step(optimizer, task.gradients, group)
            print(task.asked, float(task.value.detach()))

    ended = run_forked(tmp_path, work)
    assert [end.code for end in ended] == [0, 0], ended
    one, other = (end.output.split() for end in ended)
    assert one == other
    assert float(one[1]) == pytest.approx(500.0, rel=1e-3)


class Sharpness(torch.optim.SGD):
    """As https://github.com/davda54/sam has it: its signature says that it needs no closure."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"


def test_who_needs_a_closure_and_does_not_say_so_is_told_how(group: Group) -> None:
    optimizer = Sharpness([torch.ones(2, requires_grad=True)], lr=0.1)
    with pytest.raises(IscError, match=r"Sharpness takes no step without a closure .*def step") as raised:
        take_step(optimizer, lambda _: torch.zeros(()), group)
    assert raised.value.exit_code is ExitCode.USAGE


def test_gradients_of_another_kind_are_refused(group: Group) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1, 1])).sum().backward()
    with pytest.raises(IscError, match=r"AdamW does not support sparse gradients: .*SGD") as raised:
        take_step(torch.optim.AdamW(embedding.parameters()), lambda _: torch.zeros(()), group)
    assert raised.value.exit_code is ExitCode.USAGE
