"""Steps of an optimizer in one kernel, where that is a GPU's."""

from __future__ import annotations

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from isc_runtime.ranks.shards import is_sharded

FUSED_ON = frozenset({"cuda"})  # on a CPU there is nothing to wait for
# Settings with which torch's own constructor refuses to fuse, or which ask for another way.
OTHER_WAYS = ("foreach", "capturable", "differentiable")


def fuse(optimizer: Optimizer) -> None:
    """Lets Adam, AdamW and SGD take their steps in one kernel on a GPU, unless they were told otherwise.

    It is faster, and the device itself can leave such a step out, so that nobody has to wait for its answer.
    May be called at any time between two steps.
    """
    if type(optimizer) not in (Adam, AdamW, SGD):  # some that wrap others are no Optimizer
        return
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    if (  # asked at each step: what is fused, or on a CPU, is known from one look
        any(group["fused"] is not None or any(map(group.get, OTHER_WAYS)) for group in groups)
        or not all(
            each.device.type in FUSED_ON and each.is_floating_point() and not _is_sparse(each.grad)
            for each in parameters
        )
        or len({is_sharded(each) for each in parameters}) > 1  # torch mixes them in no kernel
    ):
        return
    for group in groups:
        group["fused"] = True
    for parameter, state in optimizer.state.items():
        if "step" in state:  # SGD counts none
            state["step"] = state["step"].to(parameter.device)  # where the kernel counts
    vars(optimizer)["_step_supports_amp_scaling"] = True  # as its constructor does


def _is_sparse(gradient: Tensor | None) -> bool:
    """Of an embedding, say: torch's kernels take none."""
    return gradient is not None and gradient.is_sparse
