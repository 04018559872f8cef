"""The optimizers' steps wait until what they change is copied."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch.optim import Optimizer

from isc_runtime.checkpointing.saving.snapshot import Owned, Snapshot, deferrable

LEFT_BEHIND = (
    "[STATE] Something else than an optimizer's step has changed weights between a save and the next step: "
    "the checkpoint holds them as they were before, and is made again if the training goes on. If an "
    "evaluation puts an average in their place, a resume until then would train on with the average: "
    "evaluate a model of its own, such as an AveragedModel. What each batch does by itself, such as "
    "clipping, a resume does again."
)

logger = logging.getLogger("checkpoint")


class StepHold:
    """Lets the steps of optimizers wait for a snapshot.

    Args:
        snapshot: whose copies they wait for.
        waited: told for how many seconds a step has waited.
        left_behind: told that what was saved are not the weights that are trained on.
    """

    def __init__(
        self, snapshot: Snapshot, waited: Callable[[float], None], left_behind: Callable[[], None]
    ) -> None:
        self._snapshot = snapshot
        self._waited, self._left_behind = waited, left_behind
        self._has_warned = False
        self._watched: WeakSet[Optimizer] = WeakSet()
        self._heard: WeakSet[Optimizer] = WeakSet()  # whose step has called us
        self._captured: WeakSet[Optimizer] = WeakSet()  # in a CUDA graph: a replayed one calls nobody

    def watch(self, parts: Iterable[Any]) -> list[Optimizer]:
        """From now on the steps of the optimizers among these parts wait; returns those that do."""
        # Some wrap another optimizer and do not call Optimizer.__init__: of these nothing can be deferred.
        hooks = "_optimizer_step_pre_hooks"
        optimizers = [part for part in parts if isinstance(part, Optimizer) and hasattr(part, hooks)]
        for optimizer in optimizers:
            if optimizer not in self._watched:
                optimizer.register_step_pre_hook(self._before_step)
                self._watched.add(optimizer)
        return optimizers

    def over(self, parts: Iterable[Any]) -> Owned:
        """The tensors that only steps of the optimizers among these parts change, which wait for us; and
        those of the modules among them that are frozen."""
        parts = list(parts)
        return deferrable([optimizer for optimizer in self.watch(parts) if self._waits(optimizer)], parts)

    def _waits(self, optimizer: Optimizer) -> bool:
        """Whether its steps call us. What can be captured may have been, before we were there."""
        is_capturable = any(group.get("capturable") for group in optimizer.param_groups)
        return optimizer not in self._captured and (optimizer in self._heard or not is_capturable)

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if _is_being_captured(optimizer):
            self._captured.add(optimizer)
            return
        self._heard.add(optimizer)
        self.look()

    def look(self) -> None:
        """Waits for what was put off. Tells if what was saved are not the weights that are trained on."""
        self._waited(self._snapshot.wait_until_copied())
        if self._snapshot.is_left_behind:
            self._snapshot.is_left_behind = False
            self._left_behind()
            if not self._has_warned:
                self._has_warned = True
                logger.warning(LEFT_BEHIND)


def _is_being_captured(optimizer: Optimizer) -> bool:
    """Whether this step goes into a CUDA graph, and is not taken now."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return any(parameter.is_cuda for parameter in parameters) and torch.cuda.is_current_stream_capturing()
