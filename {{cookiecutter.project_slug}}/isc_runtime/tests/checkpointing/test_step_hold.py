"""Steps wait for copies; what cannot be made to wait has nothing put off."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from isc_runtime.checkpointing.saving.snapshot import Snapshot
from isc_runtime.checkpointing.saving.step_hold import StepHold


class Lookahead(Optimizer):
    """As many are written: it wraps an optimizer, and is none of torch's making."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_only_what_waits_is_put_off() -> None:
    waited: list[float] = []
    hold = StepHold(Snapshot(), waited.append)
    one, other = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    optimizer, wrapped = SGD(one.parameters()), Lookahead(SGD(other.parameters()))
    for _ in range(2):  # asked at each save
        assert set(hold.over([optimizer, wrapped, one, {}])) == {one.weight.data_ptr()}
    one.weight.grad = torch.ones(1, 2)
    optimizer.step()
    wrapped.step()
    assert len(waited) == 1
