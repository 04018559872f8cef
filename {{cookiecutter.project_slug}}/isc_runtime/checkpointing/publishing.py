"""What becomes of the save that is on its way: it is waited for, published, or given up."""

from __future__ import annotations

import logging
import time
from typing import Any

from isc_runtime.checkpointing.policy import SavePolicy
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.save_log import Ended, SaveLog
from isc_runtime.checkpointing.saving.save import TORN, Save
from isc_runtime.checkpointing.saving.snapshot import Snapshot
from isc_runtime.errors import IscError
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.rank_error import RankError

logger = logging.getLogger("checkpoint")


class Publisher:
    """Holds one save at a time, on all ranks alike.

    Args:
        run: what the training runs in.
        options: how many saves may fail.
        snapshot: which puts nothing off after a copy that was torn.
        policy: told what a save has cost.

    Attributes:
        position: of the training in its last save, unless that has failed.
    """

    def __init__(self, run: Run, options: CheckpointOptions, snapshot: Snapshot, policy: SavePolicy) -> None:
        self._store, self._group = run.store, run.group
        self._snapshot, self._policy = snapshot, policy
        self._log = SaveLog(run.store, options, run.scalars, run.group.environment.isc_mode)
        self._save: Save | None = None
        self._is_torn = False
        self.position: list[dict[str, Any]] | None = None

    def take(self, save: Save, position: list[dict[str, Any]]) -> None:
        """This save is on its way now."""
        self._save, self.position = save, position

    @property
    def is_saving(self) -> bool:
        """Whether a save is on its way."""
        return self._save is not None

    @property
    def failed_saves(self) -> int:
        """Failed saves in a row."""
        return self._log.failures

    @property
    def is_unsaved(self) -> bool:
        """Whether the last save came to nothing."""
        return self._is_torn or self._log.failures > 0

    def is_writing(self) -> bool:
        """Whether a save would have to wait for the one before it, as far as this rank knows."""
        return self._save is not None and not self._save.is_written()

    def has_ended(self) -> bool:
        """Whether there is a save that need not be waited for any more, as far as this rank knows."""
        return self._save is not None and (self._save.is_written() or self._save.is_overdue())

    def note_wait(self, seconds: float) -> None:
        """A step of an optimizer has waited so long for the copy."""
        self._policy.pace.stood_still(seconds)
        if self._save is not None:
            self._save.held_up += seconds

    def finish(self) -> None:
        """Waits for the save that is on its way, if one is, and publishes it. All ranks call it.

        Raises:
            RankError: too many saves in a row have failed.
        """
        save, self._save = self._save, None
        if save is None:
            return
        waited = time.monotonic()
        try:
            while (ended := self._group.master(lambda: self._publish(save, waited))) is None:
                pass
        except RankError as error:
            save.give_up()
            self.failed(error, save.step)
            return
        self._is_torn = False
        self._policy.agree(ended.save_steps, ended.cost)
        self._log.succeeded(save, ended)

    def finish_soon(self, patience: float, is_usual: bool) -> None:
        """Where batches are slow: publishes the save that is on its way, if it is written before another
        batch would be done. The ISC ships only what has its link, and cycles may hold few such batches.

        Args:
            patience: seconds of a batch.
            is_usual: whether each save is waited for like this, and not only the first ones of a start.
        """
        save, begun = self._save, time.monotonic()
        if save is None:
            return
        is_written = self._group.master(lambda: save.is_written_within(patience, self._group.busy))
        waited = time.monotonic() - begun
        self._policy.pace.stood_still(waited, is_usual)
        save.held_up += waited
        if is_written:
            self.finish()

    def failed(self, error: RankError, step: int) -> None:
        """A save has come to nothing, on all ranks alike. Raises RankError if that is one too many."""
        self.position = None
        if error.what != TORN:
            self._log.failed(error, step)
            return
        self._is_torn = True
        self._snapshot.defer_nothing()
        self._policy.ask()  # the next one is made at once, and copies all before the training goes on
        logger.warning("[AGAIN] Checkpoint of step %d is made again: %s", step, error)

    def _publish(self, save: Save, waited: float) -> Ended | None:
        """The master's: publishes a save if it is written by now, and decides when the next ones are due.

        Args:
            save: the save.
            waited: since when the training waits for it, on the monotonic clock.
        """
        try:
            manifest = save.progress()
            if manifest is None:
                return None
            save.publish()
        except (OSError, IscError):
            self._store.check_owner()  # then that is the reason
            raise
        waiting = time.monotonic() - waited + self._snapshot.gpu_waited()
        self._policy.pace.stood_still(waiting)
        save_steps, cost = self._policy.saved(save.write_seconds)
        if save_steps != self._policy.save_steps:
            logger.info("Saving every %d batches: a save costs %.3f s", save_steps, cost)
        size = sum(int(entry["size"]) for entry in manifest.files.values())
        return Ended(size, save.held_up + waiting, save.write_seconds, save_steps, cost)
