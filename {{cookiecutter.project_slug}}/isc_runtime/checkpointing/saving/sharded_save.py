"""A save of a model of which every rank holds a part: all ranks write theirs, the master the rest."""

from __future__ import annotations

import zlib
from concurrent.futures import Future
from typing import Any

from torch import Tensor

from isc_runtime.checkpointing.on_disk.manifest import SHARDED, Manifest
from isc_runtime.checkpointing.saving.save import Save, check_finite
from isc_runtime.checkpointing.saving.shard_writer import ShardWriter, Written
from isc_runtime.checkpointing.saving.snapshot import Owned
from isc_runtime.checkpointing.stores.output import written_by_torch
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.shards import added_up, is_sum, separate
from isc_runtime.tree import Path, leaves, mapped, name_of


class ShardedSave(Save):
    """Shards are copied and written by the rank that holds them; what is not sharded is the master's."""

    format = SHARDED

    def start(self, state: dict[str, Any], deferred: Owned) -> None:
        group, snapshot = self._equipment.group, self._equipment.snapshot
        try:
            rest, tensors = separate(with_sums(state, group))
            directory = self._equipment.store.staged(self.payload).parent
            shards = ShardWriter(tensors, directory, group, self._equipment.layout)
            self._equipment.layout = shards.layout
            parts = {"rest": rest if group.is_master else None, "shards": shards.parts}
            copy = group.each(lambda: snapshot.take(parts, deferred))
        except RankError:
            snapshot.abandon()  # here it may have been taken, though it failed elsewhere
            if group.is_master:
                self._equipment.store.discard(self.payload)
            raise
        copied = self._equipment.copier.submit(snapshot.complete)
        self._equipment.writer.submit(self._write_shards, shards, copy["shards"], copied)
        if group.is_master:
            self._written = self._equipment.writer.submit(self._timed, self._write_rest, shards, copy["rest"])

    def _write_shards(self, shards: ShardWriter, copies: dict[str, Tensor], copied: Future[None]) -> None:
        """Writes this rank's part, in the background, and tells the master how it went."""
        group = self._equipment.group
        outcome: Written | RankError
        try:
            copied.result()
            check_finite(self._equipment, copies)
            with written_by_torch(self.payload.parent):
                outcome = shards.write(copies)
            self._check_whole()
        except Exception as error:
            outcome = RankError.of(error, group.environment)
        assert group.mailbox is not None  # alone nothing is sharded
        group.mailbox.post(shards.subject, outcome)

    def _write_rest(self, shards: ShardWriter, rest: dict[str, Any]) -> Manifest:
        """Waits for the shards of all ranks and writes what is not sharded, in the background, on the master.
        Of a save that fails nothing is left."""
        store, mailbox = self._equipment.store, self._equipment.group.mailbox
        assert mailbox is not None
        outcomes = mailbox.collect(shards.subject)
        try:
            for outcome in outcomes:
                if isinstance(outcome, RankError):
                    raise outcome
            check_finite(self._equipment, rest)
            files = shards.seal(outcomes)
        except BaseException:  # no rank writes any more
            store.discard(self.payload)
            raise
        return store.save(rest, self.payload, self.step, self.details, self._check, files)


def with_sums(state: dict[str, Any], group: Group) -> dict[str, Any]:
    """The state with the sum in place of each tensor of which the ranks hold summands. A collective.

    Raises:
        RankError: not all ranks hold the same ones, so that some would wait for the others.
    """
    names = [name_of(path) for path, leaf in leaves(state) if is_sum(leaf)]
    mark = zlib.crc32("\n".join(names).encode())
    highest, lowest = group.largest(mark, -mark)
    if highest != -lowest:
        group.each(_refuse_unlike)
    added: dict[str, Any] = mapped(state, _with_sum) if names else state
    return added


def _with_sum(_: Path, node: Any) -> Any:
    return added_up(node) if is_sum(node) else node


def _refuse_unlike() -> None:
    raise IscError(
        "The ranks hold summands of different tensors",
        "the state of the training",
        "Let an optimizer do the same on all ranks, or add up its norms: norm.full_tensor().",
        ExitCode.SAVE,
    )
