"""What a training loop talks to: restore, save, poll, close.

    with Checkpointer(store, group, sampler, state, options, stop) as checkpointer:
        checkpointer.restore()
        ...                                # one batch
        if checkpointer.is_due(batch):
            checkpointer.save()            # every rank
        checkpointer.poll()                # every rank, every batch

A save stops the training only while the state is copied. The master then writes it in the background, and
at a later batch, which is the same on all ranks, the checkpoint is published.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from isc_runtime import rng
from isc_runtime.checkpointing.durable import SHARDED, WHOLE, Manifest
from isc_runtime.checkpointing.loading import Stateful, load
from isc_runtime.checkpointing.outcomes import Outcomes
from isc_runtime.checkpointing.saving import Pace, Saving, best_interval, write, write_rest, write_shards
from isc_runtime.checkpointing.snapshot import Snapshot, owned_by
from isc_runtime.checkpointing.state_size import expected_size
from isc_runtime.checkpointing.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.logs import Scalars
from isc_runtime.options import AUTO, CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import Stopped, StopRequest
from isc_runtime.ranks.shards import Counterparts, separate
from isc_runtime.ranks.watch import RankError
from isc_runtime.sampler import ElasticSampler

if TYPE_CHECKING:
    from isc_runtime.checkpointing.sharded_save import Layout

logger = logging.getLogger("checkpoint")


class Checkpointer:
    """Saves and restores a training on all its ranks.

    Args:
        store: where the checkpoints live.
        group: the ranks.
        sampler: the training's position.
        state: all else that resuming needs, by name: "model", "optimizer", ...; a plain dict is a part too.
            Before training starts the parts must be the same on all ranks.
        options: how to save.
        stop: whether a signal asked to stop.
        scalars: where each save's costs are noted.
    """

    def __init__(
        self,
        store: Store,
        group: Group,
        sampler: ElasticSampler,
        state: dict[str, Stateful | dict[str, Any]],
        options: CheckpointOptions,
        stop: StopRequest,
        scalars: Scalars,
    ) -> None:
        self.store = store
        self.store.in_folders = bool(Counterparts(state))
        self.group = group
        self.sampler = sampler
        self.state = {**state, "sampler": sampler}
        self.options = options
        self.stop = stop
        self.scalars = scalars
        self.save_steps = options.save_steps or 10  # "auto" begins with this and corrects it
        self._saves = 0
        self._outcomes = Outcomes(store, options, scalars, group.environment.isc_mode)
        self._saving: Saving | None = None
        self._saved_position: dict[str, int] | None = None
        self._pace = Pace()
        self._snapshot = Snapshot()
        self._layout: Layout | None = None  # of the shards, planned in the first save
        self._optimizers = [part for part in state.values() if isinstance(part, torch.optim.Optimizer)]
        for optimizer in self._optimizers:
            optimizer.register_step_pre_hook(lambda *_: self._snapshot.hold())
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-writer")

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error on this rank alone the others would not take part in publishing; what is written
        # whole by then is found by the next restore all the same.
        if error is None or isinstance(error, Stopped):
            self.settle()
        elif self.group.world_size == 1:
            self.finish()
        self._writer.shutdown(wait=self.group.world_size == 1)

    def restore(self) -> bool:
        """Goes on from the newest good checkpoint. All ranks call it, before the first batch.

        Returns:
            Whether there was one.

        Raises:
            RankError: there are checkpoints and none is good, or this one is of another training, or there is
                no room for two more.
        """
        if self.options.fresh:
            self.group.on_master(self.store.set_all_aside)
        self.group.on_master(lambda: self.store.check_room(expected_size(self.state.values())))
        chosen = self.group.on_master(self.store.choose)
        if chosen is None:
            logger.info("No checkpoint in %s: training starts at step 0", self.store.directory)
            self.scalars.begin(0)
            return False
        entry, manifest = chosen
        with self.group.agreement():
            self._saves = load(self.state, entry, manifest, self.group, self.sampler)
        self._saved_position = self.sampler.state_dict()
        progress = self.sampler.progress
        self.scalars.begin(progress.step)
        logger.info(
            "Resumed from %s: step %d, epoch %d, batch %d, saved %s",
            *(entry.path, progress.step, progress.epoch, progress.batch, manifest.time),
        )
        return True

    def is_due(self, batch: int) -> bool:
        """Whether to save after this batch of the epoch, counted from 0."""
        return (batch + 1) % self.save_steps == 0

    def save(self, force: bool = False) -> None:
        """Saves the training as it is now. All ranks call it.

        A save that fails is logged, and the training goes on with the last good checkpoint.

        Args:
            force: any rank's True keeps this checkpoint when newer ones replace the others.

        Raises:
            IscError: it was the `max_failed_saves`th failure in a row.
        """
        begun = time.monotonic()
        self.finish()
        step = self.sampler.progress.step
        anchor = self.options.anchor_saves and (self._saves + 1) % self.options.anchor_saves == 0
        said = self.group.gather((rng.capture(self.group.device), force or bool(anchor)))
        force = any(wish for _, wish in said)
        self._saves += 1
        self.scalars.flush()  # what was logged before this checkpoint does not come again after it
        try:
            payload = self.store.prepare(step, force)
            logger.info("[ATTEMPT] Saving checkpoint of step %d to %s", step, payload)
            details = {**vars(self.sampler.progress), "force": force, "world_size": self.group.world_size}
            details["format"] = SHARDED if self.store.in_folders else WHOLE
            saving = Saving(payload, step, begun, details)
            rng_states = [state for state, _ in said]
            if self.store.in_folders:
                self._begin_sharded_write(saving, rng_states)
            else:
                self._begin_write(saving, rng_states)
        except RankError as error:
            self._saved_position = None
            self._outcomes.failed(error, step)
            return
        self._saving = saving
        self._saved_position = self.sampler.state_dict()
        saving.stall = time.monotonic() - begun
        if self.options.sync_save:
            self.finish()

    def _begin_write(self, saving: Saving, rng_states: list[dict[str, Any]]) -> None:
        """The master copies the state, and then hands the copy to the background."""
        state: dict[str, Any] = {}

        def take() -> None:
            try:
                state.update(self._snapshot.take(self._collect(rng_states), self._put_off()))
            except BaseException:
                self._snapshot.abandon()
                self.store.discard(saving.payload)
                raise

        self.group.on_master(take)
        if self.group.is_master:  # only now: it would slow down what the ranks have to tell each other
            saving.written = self._writer.submit(write, self.store, self._snapshot, state, saving)

    def _begin_sharded_write(self, saving: Saving, rng_states: list[dict[str, Any]]) -> None:
        """Each rank copies its shards, and the master the rest; then all hand them to the background."""
        from isc_runtime.checkpointing.sharded_save import ShardedSave  # a second, for those who shard

        rest, tensors = separate(self._collect(rng_states))
        try:
            shards = ShardedSave(tensors, saving.payload.parent, self.group, self._layout)
            self._layout = shards.layout
            with self.group.agreement():
                state = {"rest": rest if self.group.is_master else None, "shards": shards.parts}
                state = self._snapshot.take(state, self._put_off())
        except RankError:
            self._snapshot.abandon()  # here it may have been taken, though it failed elsewhere
            if self.group.is_master:
                self.store.discard(saving.payload)
            raise
        self._writer.submit(write_shards, self.group, self._snapshot, shards, state["shards"], saving)
        if self.group.is_master:
            saving.written = self._writer.submit(
                write_rest, self.store, self._snapshot, shards, state["rest"], saving
            )

    def _put_off(self) -> Set[int]:
        return frozenset() if self.options.sync_save else owned_by(self._optimizers)

    def _collect(self, rng_states: list[dict[str, Any]]) -> dict[str, Any]:
        parts = {
            name: part if isinstance(part, dict) else part.state_dict() for name, part in self.state.items()
        }
        return {**parts, "rng": rng_states, "saves": self._saves}

    def finish(self) -> None:
        """Waits for the save that is on its way, if one is, and publishes it. All ranks call it.

        Raises:
            IscError: too many saves in a row have failed.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return
        waited = time.monotonic()
        try:
            while (published := self.group.on_master(lambda: self._publish(saving, waited))) is None:
                if self.group.on_master(lambda: time.monotonic() - saving.begun > self.options.save_timeout):
                    raise IscError(
                        f"A save has not ended within {self.options.save_timeout:g} s",
                        saving.payload,
                        "The storage does not answer: mend it, or give it more time with --save-timeout.",
                        ExitCode.SAVE,
                    )
        except RankError as error:
            self._saved_position = None
            self._outcomes.failed(error, saving.step)
            return
        manifest, stall, write_seconds, self.save_steps = published
        self._outcomes.succeeded(saving, manifest, stall, write_seconds)

    def _publish(self, saving: Saving, waited: float) -> tuple[Manifest, float, float, int] | None:
        """The master's: publishes a save if it is written by now, and decides when the next ones are due.

        Args:
            saving: the save.
            waited: since when the training waits for it, on the monotonic clock.

        Returns:
            What was written, for how many seconds it held up the training, how many it took, and the batches
            between two saves.
        """
        if not saving.is_written():
            return None
        manifest = saving.result()
        write_seconds = time.monotonic() - saving.begun
        self.store.publish(saving.payload)
        self._writer.submit(self.store.tidy)  # a large file takes a while to delete
        stall = saving.stall + self._snapshot.held_up + time.monotonic() - waited
        self._pace.save_ended()
        save_steps = self.save_steps
        if self.options.save_steps == AUTO and self._pace.batch_seconds:
            cost = max(stall, self._pace.save_seconds)
            seconds = (write_seconds, self.options.mtbf_seconds, self._pace.batch_seconds)
            save_steps = best_interval(cost, *seconds)
            logger.info("Saving every %d batches: a save costs %.3f s", save_steps, cost)
        return manifest, stall, write_seconds, save_steps

    def settle(self) -> None:
        """Waits until the last save is published, and repeats it if it failed. All ranks call it.

        Raises:
            IscError: it keeps failing.
        """
        self.finish()
        while self._outcomes.failures:
            self.save()
            self.finish()

    def poll(self) -> None:
        """Publishes a checkpoint once it is written, and stops the training when a rank was asked to stop.
        All ranks call it after every batch.

        Raises:
            Stopped: a signal asked for it; the state has been saved.
            IscError: saves keep failing.
        """
        saving = self._saving
        self._pace.poll(self.sampler.progress.step, saving is not None, time.monotonic())
        is_written = saving is not None and saving.written is not None and saving.written.done()
        signal_number, written_step = self.group.pulse(
            self.stop.signal_number, saving.step if saving is not None and is_written else -1
        )
        if saving is not None and written_step == saving.step:
            self.finish()
        if signal_number:
            if self._saved_position != self.sampler.state_dict():
                self.save()
            self.settle()
            logger.info("Stopped by signal %d at step %d", signal_number, self.sampler.progress.step)
            raise Stopped(signal_number)
