"""Steps in one kernel: the same steps, whenever they begin, and only where that was not decided otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn, optim

from isc_runtime.training import fusing
from isc_runtime.training.fusing import fuse


@pytest.fixture(autouse=True)
def _as_if_it_were_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "FUSED_ON", {"cpu"})


def step(model: nn.Module, optimizer: optim.Optimizer, number: int) -> None:
    torch.manual_seed(number)
    optimizer.zero_grad()
    torch.autograd.backward(model(torch.randn(8, 4)).square().mean())
    optimizer.step()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(optim.AdamW, {}), (optim.Adam, {"amsgrad": True}), (optim.SGD, {}), (optim.SGD, {"momentum": 0.9})],
)
def test_an_optimizer_that_has_a_state_goes_on(kind: Any, settings: dict[str, Any]) -> None:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    other.load_state_dict(one.state_dict())
    late = kind(one.parameters(), 0.1, **settings)
    usual = kind(other.parameters(), 0.1, **settings)
    for number in range(6):
        if number == 3:
            fuse(late)
        for model, optimizer in ((one, late), (other, usual)):
            step(model, optimizer, number)
    assert late.param_groups[0]["fused"] is True
    assert int(late.state[one.weight].get("step", 6)) == 6
    torch.testing.assert_close(one.weight, other.weight)


@pytest.mark.parametrize(
    "settings", [{"fused": False}, {"foreach": True}, {"capturable": True}, {"differentiable": True}]
)
def test_what_was_decided_stays(settings: dict[str, Any]) -> None:
    optimizer = optim.Adam([nn.Parameter(torch.zeros(1))], **settings)
    fuse(optimizer)
    assert optimizer.param_groups[0]["fused"] is settings.get("fused")


class NoOptimizer:
    """Wraps one, and has no groups itself."""

    def step(self) -> None: ...


def test_others_are_left_alone() -> None:
    class Own(optim.AdamW):
        pass

    parameters = [nn.Parameter(torch.zeros(1))]
    for optimizer in (optim.RMSprop(parameters), optim.LBFGS(parameters), Own(parameters)):
        fuse(optimizer)
        assert not optimizer.param_groups[0].get("fused")
    fuse(NoOptimizer())  # type: ignore[arg-type]
    complex_ones = optim.AdamW([nn.Parameter(torch.zeros(1, dtype=torch.complex64))])
    fuse(complex_ones)
    assert not complex_ones.param_groups[0]["fused"]


def test_on_a_cpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    optimizer = optim.AdamW([nn.Parameter(torch.zeros(1))])
    fuse(optimizer)
    assert optimizer.param_groups[0]["fused"] is None


@pytest.mark.parametrize("kind", [optim.AdamW, optim.SGD])
def test_a_step_can_be_left_out_by_the_device(kind: Any) -> None:
    weight = nn.Parameter(torch.ones(4))
    optimizer = kind([weight], lr=0.5)
    fuse(optimizer)
    weight.grad = torch.full((4,), torch.nan)
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    optimizer.step()
    assert weight.tolist() == [1.0] * 4
    weight.grad = torch.ones(4)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert weight.tolist() != [1.0] * 4
