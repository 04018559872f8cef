"""One save on its way to the disk, and how often one pays."""

from __future__ import annotations

import math
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isc_runtime.durable import Manifest
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.snapshot import first_not_finite
from isc_runtime.store import Store

PATIENCE = 0.5  # seconds between two words of the ranks: nobody takes a slow disk for a hang


@dataclass
class Saving:
    """A save on its way.

    Attributes:
        payload: where it goes.
        step: the training's step.
        begun: when, on the monotonic clock.
        stall: seconds for which it held up the training.
        written: what the background write returns; on the master only.
    """

    payload: Path
    step: int
    begun: float
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


def write_if_finite(
    store: Store, state: dict[str, Any], payload: Path, step: int, details: dict[str, Any]
) -> Manifest:
    """Writes a snapshot, in the background, on the master. Of a save that fails nothing is left.

    Raises:
        IscError: the model holds NaN or infinite values: such a checkpoint would be worse than none.
        OSError: it could not be written.
    """
    name = first_not_finite(state.get("model"), "model")
    if name:
        store.discard(payload)
        raise IscError("The model holds NaN or infinite values", name, "It is not saved.", ExitCode.DIVERGED)
    return store.save(state, payload, step, details)


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
