"""One save on its way to the disk, and how often one pays."""

from __future__ import annotations

import math
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isc_runtime.durable import Manifest
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.snapshot import Snapshot
from isc_runtime.store import Store

PATIENCE = 0.5  # seconds between two words of the ranks: nobody takes a slow disk for a hang


@dataclass
class Saving:
    """A save on its way.

    Attributes:
        payload: where it goes.
        step: the training's step.
        begun: when, on the monotonic clock.
        details: what its manifest says of it besides.
        stall: seconds for which it held up the training.
        written: what the background write returns; on the master only.
    """

    payload: Path
    step: int
    begun: float
    details: dict[str, Any]
    stall: float = 0.0
    written: Future[Manifest] | None = None

    def is_written(self) -> bool:
        """Whether the background write has ended, well or not; waits for it, but not long. The master's."""
        assert self.written is not None
        wait([self.written], timeout=PATIENCE)
        return self.written.done()

    def result(self) -> Manifest:
        """What was written. Raises what the background write raised. The master's."""
        assert self.written is not None
        return self.written.result()


def write(store: Store, snapshot: Snapshot, state: dict[str, Any], saving: Saving) -> Manifest:
    """Writes a snapshot, in the background, on the master. Of a save that fails nothing is left.

    Raises:
        IscError: the model holds NaN or infinite values: such a checkpoint would be worse than none. Or the
            snapshot was disturbed while it was taken.
        OSError: it could not be written.
    """

    def check() -> None:
        if snapshot.is_torn():
            raise IscError(
                "Something else than the optimizer's step changed the weights while they were copied",
                saving.payload,
                "From now on the training waits until all is copied.",
                ExitCode.SAVE,
            )

    snapshot.complete()
    name = first_not_finite(state.get("model"), "model")
    if name:
        store.discard(saving.payload)
        raise IscError("The model holds NaN or infinite values", name, "It is not saved.", ExitCode.DIVERGED)
    return store.save(state, saving.payload, saving.step, saving.details, check)


def first_not_finite(state: Any, name: str = "") -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None."""
    if isinstance(state, torch.Tensor):
        is_finite = (
            not state.is_floating_point()
            or bool(state.sum().isfinite())  # fast, and never finite with a NaN or an infinity in it
            or bool(state.isfinite().all())
        )
        return None if is_finite else name
    if isinstance(state, dict):
        parts = [(f"{name}.{key}".lstrip("."), value) for key, value in state.items()]
        return next(filter(None, (first_not_finite(value, part) for part, value in parts)), None)
    return None


def best_interval(stall: float, write_seconds: float, mtbf_seconds: float, batch_seconds: float) -> int:
    """Batches between two saves that lose the least: after Young (1974), sqrt(2 x cost x time to failure).

    Args:
        stall: seconds for which a save holds up the training.
        write_seconds: seconds until it is on the disk; saving more often than that only queues.
        mtbf_seconds: mean time between failures.
        batch_seconds: seconds of one batch.
    """
    seconds = max(math.sqrt(2 * stall * mtbf_seconds), write_seconds)
    return max(1, round(seconds / max(batch_seconds, 1e-6)))
