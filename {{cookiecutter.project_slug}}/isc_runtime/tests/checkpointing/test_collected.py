"""Gradients that outlive a batch are named, and those that merely lie there after a step are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.collected import Collected
from isc_runtime.sampler import ElasticSampler


def trained(every: int, set_to_none: bool = True, skips: tuple[int, ...] = (), optimizers: int = 1) -> None:
    """Trains for 12 batches with a step after every so many of them, and a save after each 5th batch; then
    the optimizer gets another hook."""
    model, collected = nn.Linear(2, 1), Collected()
    steps = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(optimizers)]
    position = ElasticSampler(12, 1)
    parts: dict[str, Any] = {"model": model, "sampler": position}
    parts |= {f"optimizer {number}": one for number, one in enumerate(steps)}
    for batch in range(12):
        if batch % every == 0:
            steps[0].zero_grad(set_to_none=set_to_none)
        torch.autograd.backward(model(torch.full((1, 2), batch + 1.0)).sum())
        if batch % every == every - 1 and batch not in skips:
            steps[0].step()
        position.advance()
        if position.progress.step % 5 == 0:
            collected.saved(parts)
            steps[0].register_step_pre_hook(lambda *_: None)


def test_what_is_collected_over_a_save_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    trained(4)
    assert caplog.text.count("[STATE] The gradients of model.weight are collected over several batches") == 1


@pytest.mark.parametrize("set_to_none", [True, False])
def test_what_is_made_anew_is_not(set_to_none: bool, caplog: pytest.LogCaptureFixture) -> None:
    trained(1, set_to_none)
    trained(1, skips=(5, 6, 10))
    trained(1, set_to_none, skips=(5, 6))
    trained(5)  # a save is never in between
    trained(4, optimizers=2)
    assert caplog.text == ""
