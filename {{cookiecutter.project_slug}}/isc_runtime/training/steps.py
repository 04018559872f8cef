"""A step of whatever optimizer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import added_up, is_sharded, is_sum
from isc_runtime.training.means import Totals
from isc_runtime.training.trial import Trial, requires_closure

READING = {Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__}


def take_step(optimizer: Optimizer, gradients: Callable[[Totals], Tensor], group: Group) -> None:
    """Lets an optimizer take its step, with the gradients that are there.

    If its `step` requires a closure, as that of `torch.optim.LBFGS` does, it gets one, and may call it as
    often as it likes: each call computes the gradients anew, and returns the mean loss over all ranks. So
    all ranks decide alike, and none waits for another. If it ends where gradients or weights are not finite,
    it is taken back, and the guard that has allowed it counts it as skipped.

    Args:
        optimizer: whose step it is.
        gradients: computes the gradients of all ranks, and adds the "loss" to the totals. A collective.
        group: the ranks.

    Raises:
        IscError: the gradients are of another kind than the optimizer takes.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    with ReadingOfAllRanks() if any(map(is_sharded, parameters)) else contextlib.nullcontext():
        _take_step(optimizer, gradients, group)


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
    return added_up(result) if is_sum(result) else result


@contextlib.contextmanager
def _in_words(optimizer: Optimizer) -> Iterator[None]:
    """Says in one sentence that an optimizer takes dense gradients only, or sparse ones, or wants a closure
    after all, and what to do."""
    try:
        yield
    except Exception as error:
        if "closure" in str(error):
            reason = " ".join(str(error).split())[:300]
            raise IscError(
                f"{type(optimizer).__name__} takes no step without a closure ({reason})",
                "the optimizer in train.py",
                "It gets one if its signature says that it needs it: def step(self, closure), without a "
                "default. Let a class of your own say so if it comes from a package.",
                ExitCode.USAGE,
            ) from error
        found = re.search(r"does not support (sparse|dense) gradients", str(error))
        if found is None:
            raise
        raise IscError(
            f"{type(optimizer).__name__} {found[0]}",
            "the optimizer in train.py",
            "Sparse ones come from nn.Embedding(sparse=True): SGD takes both kinds, SparseAdam sparse ones "
            "only, and with sparse=False all gradients are dense.",
            ExitCode.USAGE,
        ) from None


def _take_step(optimizer: Optimizer, gradients: Callable[[Totals], Tensor], group: Group) -> None:
    if not requires_closure(optimizer):
        with _in_words(optimizer):
            optimizer.step()
        return
    trial = Trial(optimizer, group)

    def closure() -> float:
        totals = Totals(group)
        try:
            trial.saw(gradients(totals))
        except RuntimeError as error:
            if "unscale_() has already been called" not in str(error):
                raise
            raise IscError(
                "An enabled GradScaler unscales once in a step, and this optimizer has several gradients",
                type(optimizer).__name__,
                "Train in bfloat16 or float32, with GradScaler(..., enabled=False).",
                ExitCode.USAGE,
            ) from None
        return totals.over_ranks()["loss"]

    optimizer.step(closure)
    trial.end()
