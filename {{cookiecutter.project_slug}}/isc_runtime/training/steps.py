"""A step of whatever optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import added_up, is_sharded, is_sum
from isc_runtime.training.means import Totals

READING = {Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__}


def take_step(optimizer: Optimizer, gradients: Callable[[Totals], Tensor], group: Group) -> None:
    """Lets an optimizer take its step, with the gradients that are there.

    If its `step` requires a closure, as that of `torch.optim.LBFGS` does, it gets one, and may call it as
    often as it likes: each call computes the gradients anew, and returns the mean loss over all ranks. So
    all ranks decide alike, and none waits for another.

    What a step leaves in the optimizer's state as summands of all ranks, the norm of a layer in shards, is
    added up at once: a checkpoint holds the sum, and the steps after a resume begin with it, too.

    Args:
        optimizer: whose step it is.
        gradients: computes the gradients of all ranks, and adds the "loss" to the totals. A collective.
        group: the ranks.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    if not any(map(is_sharded, parameters)):
        _take_step(optimizer, gradients, group)
        return
    with ReadingOfAllRanks():
        _take_step(optimizer, gradients, group)
    for entry in getattr(optimizer, "state", {}).values():
        sums = [name for name, value in entry.items() if is_sum(value)] if isinstance(entry, dict) else []
        entry.update((name, added_up(entry[name])) for name in sums)


class ReadingOfAllRanks(TorchFunctionMode):
    """A norm or a sum of a sharded tensor is that of all ranks, and so is each number that is read: for LAMB.

    What torch itself gives is this rank's share of it, another one on each rank; and it refuses to go on
    computing with some of these.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in READING and is_sharded(args[0]):
            args = (args[0].full_tensor(), *args[1:])
        result = func(*args, **(kwargs or {}))
        if type(result) in (list, tuple):  # of torch._foreach_norm
            return type(result)(map(_of_all_ranks, result))
        return _of_all_ranks(result)


def _of_all_ranks(result: Any) -> Any:
    """What each rank has a share of is added up, or whatever else makes one of it. A collective."""
    if not (is_sharded(result) and any(placement.is_partial() for placement in result.placements)):
        return result
    from torch.distributed.tensor import Replicate  # it was imported by whoever made shards

    whole = [Replicate() if placement.is_partial() else placement for placement in result.placements]
    return result.redistribute(placements=whole)


def _take_step(optimizer: Optimizer, gradients: Callable[[Totals], Tensor], group: Group) -> None:
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
