"""What a checkpoint gives back, and what belongs to the run that loads it."""

from __future__ import annotations

import pytest
import torch

from isc_runtime.checkpointing.loading import _put_back


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
