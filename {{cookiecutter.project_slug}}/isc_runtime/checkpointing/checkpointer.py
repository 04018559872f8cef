"""What a training loop talks to: restore, save, poll, close.

    with Checkpointer(run, training, options) as checkpointer:
        checkpointer.restore()
        ...                                # one batch
        if checkpointer.is_due(batch):
            checkpointer.save()            # every rank
        checkpointer.poll()                # every rank, every batch

A save stops the training only while the state is copied. The master then writes it in the background, and
at a later batch, which is the same on all ranks, the checkpoint is published. `save` tells of its states.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from types import TracebackType
from typing import Any

import torch

from isc_runtime import rng
from isc_runtime.checkpointing.asked import Asked
from isc_runtime.checkpointing.clock import SLOW, Clock
from isc_runtime.checkpointing.loading import WHERE
from isc_runtime.checkpointing.parts import Place, State, Training, collect, collect_own, parts_of
from isc_runtime.checkpointing.policy import SavePolicy
from isc_runtime.checkpointing.publishing import Publisher
from isc_runtime.checkpointing.resuming import resume
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.saving.save import Equipment, Save, WholeSave
from isc_runtime.checkpointing.saving.snapshot import Owned
from isc_runtime.checkpointing.saving.state_size import size_of
from isc_runtime.checkpointing.saving.step_hold import StepHold
from isc_runtime.options import CheckpointOptions
from isc_runtime.position import Position
from isc_runtime.ranks.buffers import equalize_buffers
from isc_runtime.ranks.interruption import Stopped
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.shards import ShardedTensors

PAUSE = 1.0  # seconds before a failed last save is repeated, twice as long the next time

logger = logging.getLogger("checkpoint")


class Checkpointer:
    """Saves and restores a training on all its ranks.

    Args:
        run: what the training runs in.
        training: what is saved; see `parts.Training`.
        options: how to save.

    Attributes:
        policy: when a save is due.
        equipment: what all saves share.

    Raises:
        IscError: a part is neither, or there is no position.
    """

    def __init__(self, run: Run, training: Training, options: CheckpointOptions) -> None:
        self._run = run
        self.store, self.group, self.stop, self.scalars = run.store, run.group, run.stop, run.scalars
        self.options = options
        self.policy = SavePolicy(options, time.monotonic())
        self._training = training
        self._clock = Clock(self.policy, run.group, options.max_seconds)
        self._saves, self._is_size_known = 0, False  # so many were begun
        run.store.keep_best = options.keep_best
        self.equipment = Equipment(run.store, run.group)
        self._publisher = Publisher(run, options, self.equipment.snapshot, self.policy)
        self._place = Place(training)
        self._step_hold = StepHold(self.equipment.snapshot, self._publisher.note_wait, self.policy.owe)
        parts = parts_of(training)
        self._step_hold.watch(parts.values())
        self._asked = Asked(getattr(training, "arguments", None), parts, getattr(training, "left_out", ()))
        self.equipment.modules = frozenset(name for name in parts if isinstance(parts[name], torch.nn.Module))
        self._kind = self._choose_kind(parts)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_well = error is None or isinstance(error, Stopped)
        if is_well:
            self.settle()
            self.store.starts.over()
        elif self.group.world_size == 1:
            if self.is_saving:
                words = (kind.__name__ if kind else "", error, self.options.save_timeout)
                logger.error("[END] %s: %s. The save under way is waited for, up to %g s", *words)
            with contextlib.suppress(Exception):  # logged; what counts is the error that is on its way
                self.finish()
        # After an error on this rank alone the others would not take part in publishing; what is written
        # whole by then is found by the next restore all the same.
        self.equipment.close(wait=is_well and self.group.world_size == 1)

    def _choose_kind(self, parts: State) -> type[Save]:
        """The way to save, for good: a model in shards needs a folder for each checkpoint."""
        self.store.in_folders = bool(ShardedTensors(parts))
        if not self.store.in_folders:
            return WholeSave
        from isc_runtime.checkpointing.saving.sharded_save import ShardedSave  # a second, for those who shard

        return ShardedSave

    @property
    def _sampler(self) -> Position:
        return self._place.position()

    @property
    def is_saving(self) -> bool:
        """Whether a save is on its way."""
        return self._publisher.is_saving

    @property
    def failed_saves(self) -> int:
        """Failed saves in a row."""
        return self._publisher.failed_saves

    @property
    def is_time_up(self) -> bool:
        """Whether the training has taken `max_seconds`, as all ranks know since the last poll."""
        return self._clock.is_time_up

    def restore(self) -> bool:
        """Goes on from the newest good checkpoint. All ranks call it, before the first batch.

        Returns:
            Whether there was one.

        Raises:
            RankError: there are checkpoints and none is good, or this one is of another training, or there is
                no room for two more.
        """
        resumed = resume(self._run, self._training, self.options, self.equipment, self._asked)
        if resumed is None:
            self.scalars.begin(0)
            return False
        self._saves = resumed.saves
        self._clock.resumed(resumed.seconds)
        self._publisher.position = self._position()
        self.policy.resumed(self._sampler.progress.step)
        self.scalars.begin(self._sampler.progress.step)
        return True

    def _position(self) -> list[dict[str, Any]]:
        """How far the training is, and an evaluation that is under way."""
        parts = self._training.state()
        return [parts[name].state_dict() for name in WHERE if name in parts]  # type: ignore[union-attr]

    def _has_moved(self) -> bool:
        """Whether there is something to save since the last one; if this rank cannot say, its save will."""
        try:
            return self._publisher.position != self._position()
        except Exception:
            return True

    def is_due(self, batch: int | None = None) -> bool:
        """Whether to save now. All ranks call it, and get the same answer.

        Args:
            batch: the one of the epoch that was just trained on, counted from 0; None in an evaluation.
        """
        self._clock.look(batch is None, self._publisher.is_writing())
        return self.policy.due(self._sampler.progress.step, batch, self.is_saving)

    def equalize(self) -> None:
        """Gives the buffers of all modules in the state the values that they have on the first rank, whose
        are saved. All ranks call it.
        """
        parts = parts_of(self._training).values()
        equalize_buffers((part for part in parts if isinstance(part, torch.nn.Module)), self.group)

    def save(self, force: bool = False) -> None:
        """Saves the training as it is now. All ranks call it.

        A save that fails is logged, and the training goes on with the last good checkpoint.

        Args:
            force: any rank's True keeps this checkpoint, the best one so far, until `keep_best` newer ones
                are kept in the same way.

        Raises:
            RankError: it was the `max_failed_saves`th failure in a row.
        """
        self.finish()
        begun, step = time.monotonic(), self._sampler.progress.step
        self.policy.begun(step, begun)
        self._clock.begun()
        self._saves += 1
        self.scalars.flush()  # what was logged before this checkpoint does not come again after it
        try:
            self._begin(step, begun, force)
        except RankError as error:
            self._publisher.failed(error, step)
            return
        finally:
            self.policy.pace.stood_still(time.monotonic() - begun)
        if self.options.sync_save:
            self.finish()
        elif self._clock.training_seconds > SLOW:
            self._publisher.finish_soon(self._clock.training_seconds, is_usual=True)

    def _begin(self, step: int, begun: float, force: bool) -> None:
        """Copies the state and lets the background write it. Raises RankError."""
        parts, own, deferred, error = self._collect()
        anchor = self.options.anchor_saves and self._saves % self.options.anchor_saves == 0
        failed, forced = self.group.largest(error is not None, bool(force or anchor))
        if failed:
            raise next(filter(None, self.group.gather(error)))
        if self.equipment.unsaved:
            self.equipment.unsaved.saved(parts)
        known = self.group.to_master(own)
        if not self._is_size_known:  # only now the optimizers have made their state
            self.group.master(lambda: self.store.check_room(size_of(parts)))
            self._is_size_known = True
        payload = self.store.prepare(step, bool(forced))
        logger.info("[ATTEMPT] Saving checkpoint of step %d to %s", step, payload)
        details = {**vars(self._sampler.progress), "force": bool(forced), "anchor": bool(anchor)}
        details |= {"world_size": self.group.world_size, "seconds": self._clock.seconds_trained()}
        save = self._kind(self.equipment, payload, step, begun, details, self.options.save_timeout)
        state = {**parts, "rng": [own["rng"] for own in known], "saves": self._saves}
        for name in {name for own in known for name in own} - {"rng"}:  # the master's: it alone writes them
            state[name] = {**parts[name], "ranks": [own[name] for own in known]}
        state["asked"] = self._asked.state(parts_of(self._training), parts)
        save.start(state, deferred)
        save.held_up = time.monotonic() - begun
        self._publisher.take(save, [parts[name] for name in WHERE if name in parts])

    def _collect(self) -> tuple[dict[str, Any], dict[str, Any], Owned, RankError | None]:
        """The state of the parts, what only this rank knows, what can be put off; or why there is none."""
        try:
            own = {"rng": rng.capture(self.group.device), **collect_own(self._training)}
            pickle.dumps(own)  # it goes to the master
            return collect(self._training), own, self._deferrable(), None
        except Exception as error:  # a state_dict of the user's; the others must not wait for this rank
            return {}, {}, {}, RankError.of(error, self.group.environment)

    def _deferrable(self) -> Owned:
        """What only the optimizer's steps change. It is copied before the next one, or now."""
        self.equipment.snapshot.is_at_once = self.options.sync_save or self._publisher.is_unsaved
        return self._step_hold.over(parts_of(self._training).values())

    def finish(self) -> None:
        """Waits for the save that is on its way, if one is, and publishes it. All ranks call it.

        Raises:
            RankError: too many saves in a row have failed.
        """
        self._publisher.finish()

    def settle(self) -> None:
        """Waits until the last save is published, and repeats it if it failed. All ranks call it.

        Raises:
            RankError: it keeps failing.
        """
        self.finish()
        self._step_hold.look()
        while self._publisher.is_unsaved:
            self.group.busy()
            time.sleep(PAUSE * self.failed_saves)  # what failed now, fails a moment later, too
            self.save()
            self.finish()

    def poll(self) -> None:
        """Publishes a checkpoint once it is written, and stops the training when a rank was asked to stop.
        All ranks call it after every batch.

        Raises:
            Stopped: a signal asked for it; the state has been saved.
            RankError: saves keep failing.
        """
        progress = self._sampler.progress
        self.policy.pace.poll(progress.step, progress.batch, self.is_saving, time.monotonic())
        if self._clock.is_slow:
            self._publisher.finish_soon(self._clock.since_poll(), self._clock.is_pace_known)
        signal_number, written, *said = self.group.pulse(
            self.stop.signal_number,
            self._saves if self._publisher.has_ended() else -1,
            *self._clock.words(self._publisher.is_writing()),
        )
        self._clock.heard(*said)
        self.store.starts.saw(progress.step, self.failed_saves, self.is_saving, self._clock.is_evaluation)
        if written == self._saves:
            self.finish()
        if signal_number:
            if any(self.group.gather(self._has_moved())):
                self.save()
            self.settle()
            logger.info("Stopped by signal %d at step %d", signal_number, progress.step)
            raise Stopped(signal_number)
