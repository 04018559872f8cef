"""What a checkpoint gives back, and what belongs to the run that loads it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.loading import _independent, _put_back

MOMENTS = ("exp_avg", "exp_avg_sq")


def stepped(fused: bool) -> torch.optim.AdamW:
    parameter = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5, fused=fused)
    parameter.grad = torch.ones(3)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("is_fused", [True, False])
def test_how_a_step_is_computed_is_not_the_checkpoint_s(is_fused: bool) -> None:
    """0.1.0 saved optimizers that were not fused: its checkpoints must not turn that off."""
    saved, now = stepped(not is_fused), stepped(is_fused)
    saved.param_groups[0]["lr"] = 0.3
    state = saved.state_dict()
    _put_back(now, state, is_mapped=True)
    (group,) = now.param_groups
    assert (group["fused"], group["lr"]) == (is_fused, 0.3)
    assert state["param_groups"][0]["fused"] is not is_fused  # what was loaded stays as it is
    now.step()
    assert now.state[group["params"][0]]["step"] == 2


@pytest.mark.parametrize(("device", "copied"), [("meta", {"step"}), ("cpu", {"step", *MOMENTS})])
def test_only_what_stays_on_the_cpu_is_copied(device: str, copied: set[str]) -> None:
    """What a GPU gets is read from the mapped file right into it; here the meta device is one."""
    state: dict[str, Any] = {"step": torch.tensor(3.0)} | {name: torch.ones(5) for name in MOMENTS}
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(5, device=device))])
    saved = {**optimizer.state_dict(), "state": {0: state}}
    independent = _independent(optimizer, saved)["state"][0]
    assert {name for name in state if independent[name] is not state[name]} == copied
    _put_back(optimizer, saved, is_mapped=True)
    (loaded,) = optimizer.state.values()
    assert all(loaded[name].device.type == device for name in MOMENTS)
    addresses = {value.data_ptr() for value in state.values()}
    assert not any(value.is_cpu and value.data_ptr() in addresses for value in loaded.values())
