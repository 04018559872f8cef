"""One save on its way to the disk, and how often one pays."""

from __future__ import annotations

import math
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isc_runtime.checkpointing.durable import Manifest
from isc_runtime.checkpointing.snapshot import Snapshot
from isc_runtime.checkpointing.store import Store, written_by_torch
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.watch import RankError

if TYPE_CHECKING:
    from isc_runtime.checkpointing.sharded_save import ShardedSave, Written

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
    try:
        snapshot.complete()
        _check_finite(state.get("model"), "model")
    except BaseException:
        store.discard(saving.payload)
        raise
    return store.save(
        state, saving.payload, saving.step, saving.details, lambda: _check_whole(snapshot, saving)
    )


def write_shards(
    group: Group, snapshot: Snapshot, shards: ShardedSave, copies: dict[str, Tensor], saving: Saving
) -> None:
    """Writes this rank's part of a snapshot, in the background, and reports to the master how it went."""
    outcome: Written | RankError
    try:
        snapshot.complete()
        for key, copy in copies.items():
            if key.startswith("model."):
                _check_finite(copy, key)
        with written_by_torch(saving.payload.parent):
            outcome = shards.write(copies)
        _check_whole(snapshot, saving)
    except Exception as error:
        outcome = RankError.of(error, group.environment)
    group.report(shards.subject, outcome)


def write_rest(
    store: Store, snapshot: Snapshot, shards: ShardedSave, state: dict[str, Any], saving: Saving
) -> Manifest:
    """Waits for the shards of all ranks and writes what is not sharded, in the background, on the master.
    Of a save that fails nothing is left.

    Raises:
        RankError: a rank could not write its shards, for one of the reasons of `write`.
        IscError, OSError: as for `write`.
    """
    outcomes = store.group.reports(shards.subject)
    try:
        for outcome in outcomes:
            if isinstance(outcome, RankError):
                raise outcome
        _check_finite(state.get("model"), "model")
        others = shards.seal(outcomes)
    except BaseException:  # no rank writes any more
        store.discard(saving.payload)
        raise
    return store.save(state, saving.payload, saving.step, saving.details, others=others)


def _check_whole(snapshot: Snapshot, saving: Saving) -> None:
    if snapshot.is_torn():
        raise IscError(
            "Something else than the optimizer's step changed the weights while they were copied",
            saving.payload,
            "From now on the training waits until all is copied.",
            ExitCode.SAVE,
        )


def _check_finite(state: Any, name: str) -> None:
    found = first_not_finite(state, name)
    if found:
        raise IscError("The model holds NaN or infinite values", found, "It is not saved.", ExitCode.DIVERGED)


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


class Pace:
    """How long a batch takes, and how much longer the training takes for a save.

    That is more than what a save holds up: its copying and writing beside the training take memory, cores and
    network from it.
    """

    def __init__(self) -> None:
        self._batches = {False: 0, True: 0}  # by whether a save was under way
        self._seconds = {False: 0.0, True: 0.0}
        self._saves = 0
        self._was_saving = False
        self._step: int | None = None
        self._at = 0.0

    def poll(self, step: int, is_saving: bool, now: float) -> None:
        """Notes the end of a batch; or of something else, an evaluation for one, if the step is the last one.

        Args:
            step: the training's.
            is_saving: whether a save is under way.
            now: seconds, of a monotonic clock.
        """
        if self._step is not None and step != self._step:  # the first batch warms up
            key = is_saving or self._was_saving
            self._batches[key] += 1
            self._seconds[key] += now - self._at
        self._step, self._was_saving, self._at = step, is_saving, now

    def save_ended(self) -> None:
        """A save is published."""
        self._saves += 1

    @property
    def batch_seconds(self) -> float:
        """Of a batch without a save; if there was none, of any."""
        key = self._batches[False] == 0
        return self._seconds[key] / max(1, self._batches[key])

    @property
    def save_seconds(self) -> float:
        """By how much the batches with a save were longer, for each save; 0 if they were not."""
        longer = self._seconds[True] - self._batches[True] * self.batch_seconds
        return max(0.0, longer) / max(1, self._saves)


def best_interval(cost: float, write_seconds: float, mtbf_seconds: float, batch_seconds: float) -> int:
    """Batches between two saves that lose the least: after Young (1974), sqrt(2 x cost x time to failure).

    Args:
        cost: seconds by which a save makes the training longer.
        write_seconds: seconds until it is on the disk; saving more often than that only queues.
        mtbf_seconds: mean time between failures.
        batch_seconds: seconds of one batch.
    """
    seconds = max(math.sqrt(2 * cost * mtbf_seconds), write_seconds)
    return max(1, round(seconds / max(batch_seconds, 1e-6)))
