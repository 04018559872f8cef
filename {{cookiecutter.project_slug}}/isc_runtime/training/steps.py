"""A step of whatever optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer

from isc_runtime.ranks.group import Group
from isc_runtime.training.means import Totals


def take_step(optimizer: Optimizer, gradients: Callable[[Totals], Tensor], group: Group) -> None:
    """Lets an optimizer take its step, with the gradients that are there.

    If its `step` requires a closure, as that of `torch.optim.LBFGS` does, it gets one, and may call it as
    often as it likes: each call computes the gradients anew, and returns the mean loss over all ranks. So
    all ranks decide alike, and none waits for another.

    Args:
        optimizer: whose step it is.
        gradients: computes the gradients of all ranks, and adds the "loss" to the totals. A collective.
        group: the ranks.
    """
    if not _requires_closure(optimizer):
        optimizer.step()
        return

    def closure() -> float:
        totals = Totals(group)
        gradients(totals)
        return totals.over_ranks()["loss"]

    optimizer.step(closure)


def _requires_closure(optimizer: Optimizer) -> bool:
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty
