"""One save, from its copy in memory to the link that points to it.

      none ──start()──> copying ──────> writing ──────> written ──publish()──> published
                           │               │
                           └───────────────┴──> failed: nothing of it is left

`start` is a collective and holds the training up while it copies what may change by itself. What only a step
of the optimizer changes is copied in the background, then written, synced and checked there. `progress` tells
the master how far that is, and `publish`, at a batch that all ranks agree on, moves the link.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec

import torch

from isc_runtime.background import Background
from isc_runtime.checkpointing.on_disk.manifest import WHOLE, Manifest
from isc_runtime.checkpointing.on_disk.payload import path_for_torch
from isc_runtime.checkpointing.saving.finite import names_of_not_finite
from isc_runtime.checkpointing.saving.snapshot import Owned, Snapshot
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.checkpointing.unsaved import Unsaved
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.device import use_in_this_thread
from isc_runtime.ranks.group import Group

P = ParamSpec("P")
TORN = "Something else than the optimizer's step changes weights, and their copy may be of two instants"
PATIENCE = 0.5  # seconds between two words of the ranks: nobody takes a slow disk for a hang


@dataclass
class Equipment:
    """What the saves of a training share.

    Attributes:
        store: where checkpoints live.
        group: the ranks.
        snapshot: memory for the copies, used again and again.
        writer: the thread that writes, one save after the other, and deletes what is superfluous.
        copier: another one, so that no step of an optimizer, which waits for copies, waits for a deletion.
        layout: of the shards; planned in the first sharded save.
        is_proven: whether what was written could be read back; the first save finds out.
        modules: the names of the parts that are modules.
        not_finite: the names of those of their tensors that were not finite at the start, as a mask may be.
        trained: the names of their parameters.
        unsaved: told of each save, once the training has begun.
    """

    store: Store
    group: Group
    snapshot: Snapshot = field(init=False)
    writer: Background = field(init=False)
    copier: Background = field(init=False)
    layout: Any = None  # a shard_writer.Layout, which takes a second to import
    is_proven: bool = False
    modules: frozenset[str] = frozenset()
    not_finite: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()
    unsaved: Unsaved | None = None

    def __post_init__(self) -> None:
        device = self.group.device
        self.snapshot = Snapshot(device)
        prepare = partial(use_in_this_thread, device)
        self.writer, self.copier = Background("checkpoint-writer", prepare), Background("copier", prepare)

    def close(self, wait: bool) -> None:
        """Ends the threads. `wait` waits until all is written and deleted."""
        self.copier.close(wait)
        self.writer.close(wait)


class Save(ABC):
    """One save on its way; on all ranks.

    Args:
        equipment: what all saves share.
        payload: the file where it goes.
        step: the training's step.
        begun: when, on the monotonic clock.
        details: what its manifest says of it besides.
        timeout: seconds after which it counts as failed.

    Attributes:
        held_up: seconds for which it held up the training.
        write_seconds: seconds from its beginning until it was durable, once it is; the master's.
    """

    format: str  # as a manifest's details name it

    def __init__(
        self,
        equipment: Equipment,
        payload: Path,
        step: int,
        begun: float,
        details: dict[str, Any],
        timeout: float,
    ) -> None:
        self.payload = payload
        self.step = step
        self.begun = begun
        self.details = {**details, "format": self.format}
        self.timeout = timeout
        self.held_up = self.write_seconds = 0.0
        self._equipment = equipment
        self._written: Future[Manifest] | None = None  # the master's
        self._is_given_up = False

    @abstractmethod
    def start(self, state: dict[str, Any], deferred: Owned) -> None:
        """Copies the state, and lets the background copy the rest and write. A collective.

        Args:
            state: of the training, of tensors and plain values.
            deferred: the tensors that may be copied later, before the optimizer's next step.

        Raises:
            RankError: it could not be copied on some rank; nothing is left of it.
        """

    def _timed(self, write: Callable[P, Manifest], *arguments: P.args, **options: P.kwargs) -> Manifest:
        """In the background: writes, and notes when that is done. The ranks agree on it batches later."""
        manifest = write(*arguments, **options)
        self.write_seconds = time.monotonic() - self.begun
        return manifest

    def is_written(self) -> bool:
        """Whether the background has ended, well or not; it is not waited for. False but on the master."""
        return self._written is not None and self._written.done()

    def is_written_within(self, seconds: float, busy: Callable[[], None]) -> bool:
        """Whether the background has ended by then, well or not; it is waited for. The master's.

        Args:
            seconds: how long to wait at most.
            busy: called meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not self.is_written() and time.monotonic() < deadline:
            assert self._written is not None
            wait([self._written], timeout=min(PATIENCE, max(0.0, deadline - time.monotonic())))
            busy()
        return self.is_written()

    def is_overdue(self) -> bool:
        """Whether it takes longer than it may."""
        return time.monotonic() - self.begun > self.timeout

    def progress(self) -> Manifest | None:
        """What was written; None while it still is, after waiting for a moment. The master's.

        Raises:
            IscError: it could not be written, or has not ended in time.
            OSError: it could not be written.
        """
        assert self._written is not None
        wait([self._written], timeout=PATIENCE)
        if self._written.done():
            return self._written.result()
        if self.is_overdue():
            raise IscError(
                f"A save has not ended within {self.timeout:g} s",
                self.payload,
                "The storage does not answer: repair it, or give it more time with --save-timeout.",
                ExitCode.SAVE,
            )
        return None

    def publish(self) -> None:
        """Makes it the newest checkpoint, and deletes in the background what it replaces. The master's."""
        store = self._equipment.store
        store.publish(self.payload)
        self._equipment.writer.submit(store.tidy)  # a large file takes a while to delete

    def _check(self) -> None:
        """Called when the bytes are durable: is this what a resume can go on from? Raises IscError."""
        self._check_whole()
        if not self._equipment.is_proven:
            check_readable(self._equipment.store.staged(self.payload))
            self._equipment.is_proven = True

    def give_up(self) -> None:
        """It has failed, and may be written all the same, late: the next one uses the memory of its copy."""
        self._is_given_up = True

    def _check_whole(self) -> None:
        if self._is_given_up:
            raise IscError("It was given up", self.payload, "The storage answers again.", ExitCode.SAVE)
        if self._equipment.snapshot.is_torn():
            raise IscError(
                TORN,
                self.payload,
                "From now on the training waits until all is copied.",
                ExitCode.SAVE,
            )


class WholeSave(Save):
    """A state that every rank has: the master copies and writes it."""

    format = WHOLE

    def start(self, state: dict[str, Any], deferred: Owned) -> None:
        copy: dict[str, Any] = {}
        snapshot = self._equipment.snapshot

        def take() -> None:
            try:
                copy.update(snapshot.take(state, deferred))
            except BaseException:
                snapshot.abandon()
                self._equipment.store.discard(self.payload)
                raise

        self._equipment.group.master(take)
        if self._equipment.group.is_master:  # only now: it would slow down what the ranks tell each other
            copied = self._equipment.copier.submit(snapshot.complete)
            self._written = self._equipment.writer.submit(self._timed, self._write, copy, copied)

    def _write(self, copy: dict[str, Any], copied: Future[None]) -> Manifest:
        """In the background. Of a save that fails nothing is left."""
        store = self._equipment.store
        try:
            copied.result()
            check_finite(self._equipment, copy)
        except BaseException:
            store.discard(self.payload)
            raise
        return store.save(copy, self.payload, self.step, self.details, self._check)


def check_readable(payload: Path) -> None:
    """Reads what was written as a resume does; the tensors themselves are only mapped.

    Raises:
        IscError: it cannot be read.
    """
    try:
        with path_for_torch(payload) as path:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise IscError(
            f"What was written cannot be loaded again ({' '.join(str(error).split())[:300]})",
            payload,
            "Something in the state has a type that torch.load(weights_only=True) refuses: convert it.",
            ExitCode.SAVE,
        ) from error


def check_finite(equipment: Equipment, state: dict[str, Any]) -> None:
    """Refuses what would be worse than no checkpoint.

    Args:
        equipment: which parts are modules, and what in them was not finite before the training began.
        state: by the names of the parts, or with paths as keys.

    Raises:
        IscError: a module of the training holds values that have become NaN or infinite.
    """
    for key, part in state.items():
        if key.partition(".")[0] in equipment.modules:
            for name in names_of_not_finite(part, key, equipment.trained):
                if name not in equipment.not_finite:
                    what = "A module holds NaN or infinite values"
                    raise IscError(what, name, "It is not saved.", ExitCode.DIVERGED)
