"""The optimizers' steps wait until what they change is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from torch.optim import Optimizer

from isc_runtime.checkpointing.saving.snapshot import Owned, Snapshot, owned_by


class StepHold:
    """Lets the steps of optimizers wait for a snapshot.

    Args:
        snapshot: whose copies they wait for.
        waited: told for how many seconds a step has waited.
    """

    def __init__(self, snapshot: Snapshot, waited: Callable[[float], None]) -> None:
        self._snapshot = snapshot
        self._waited = waited
        self._held: WeakSet[Optimizer] = WeakSet()

    def over(self, parts: Iterable[Any]) -> Owned:
        """The tensors that only steps of the optimizers among these parts change; from now on these wait."""
        # Some wrap another optimizer and do not call Optimizer.__init__: of these nothing can be put off.
        hooks = "_optimizer_step_pre_hooks"
        optimizers = [part for part in parts if isinstance(part, Optimizer) and hasattr(part, hooks)]
        for optimizer in optimizers:
            if optimizer not in self._held:
                optimizer.register_step_pre_hook(lambda *_: self._waited(self._snapshot.wait_until_copied()))
                self._held.add(optimizer)
        return owned_by(optimizers)
