"""Steps wait for copies; what cannot be made to wait has nothing put off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from isc_runtime.checkpointing.saving import step_hold
from isc_runtime.checkpointing.saving.snapshot import Snapshot
from isc_runtime.checkpointing.saving.step_hold import StepHold


class Lookahead(Optimizer):
    """As many are written: it wraps an optimizer, and is none of torch's making."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


@pytest.mark.parametrize("options", [{}, {"capturable": True}])
def test_what_is_captured_in_a_graph_waits_for_nobody_and_is_not_put_off(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """A CUDA graph that is replayed calls no hook."""
    hold = StepHold(Snapshot(), lambda _: None, lambda: None)
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = Adam([weight], foreach=False)
    hold.watch([optimizer])
    optimizer.param_groups[0].update(options)  # on a CPU its constructor refuses it
    assert bool(hold.over([optimizer])) is not bool(options), "it may have been captured before"
    optimizer.param_groups[0]["capturable"] = False
    optimizer.step()
    optimizer.param_groups[0].update(options)
    assert set(hold.over([optimizer])) >= {weight.data_ptr()}
    monkeypatch.setattr(step_hold, "_is_being_captured", lambda _: True)
    optimizer.param_groups[0]["capturable"] = False
    optimizer.step()
    assert hold.over([optimizer]) == {}


def test_only_what_waits_is_put_off() -> None:
    waited: list[float] = []
    hold = StepHold(Snapshot(), waited.append, lambda: None)
    one, other = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    optimizer, wrapped = SGD(one.parameters()), Lookahead(SGD(other.parameters()))
    for _ in range(2):  # asked at each save
        assert set(hold.over([optimizer, wrapped, one, {}])) == {one.weight.data_ptr()}
    one.weight.grad = torch.ones(1, 2)
    optimizer.step()
    wrapped.step()
    assert len(waited) == 1
