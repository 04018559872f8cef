"""The sharded part of a save: planned by all ranks, written by all, sealed by the master.

torch.distributed.checkpoint is used through what it offers to planners and writers: its own `save` would talk
among the ranks in the background, and does not wait for the disk where it should.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

from isc_runtime.checkpointing.on_disk.durable import sync_directory, sync_file
from isc_runtime.checkpointing.on_disk.manifest import Checksums, describe
from isc_runtime.ranks.group import Group

METADATA = ".metadata"  # torch's name for it

_numbers = itertools.count()  # of saves; all ranks count alike


@dataclass(frozen=True)
class Written:
    """What one rank has written, durably.

    Attributes:
        files: its files, as a manifest describes them.
        results: where in them its parts are.
    """

    files: Checksums
    results: list[WriteResult]


class _Planner(DefaultSavePlanner):
    """Plans for the tensors of the training, and has copies of them written."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.copies: Mapping[str, Tensor] = {}

    def lookup_object(self, index: MetadataIndex) -> Any:
        """The copy of this rank's part of a tensor: it has one part of each."""
        return self.copies[index.fqn]

    def parts(self, plan: SavePlan) -> dict[str, Tensor]:
        """What `copies` are to be of, by key."""
        return {item.index.fqn: super(_Planner, self).lookup_object(item.index) for item in plan.items}


@dataclass(frozen=True)
class Layout:
    """Who writes what. Planned once: it holds as long as the tensors look the same.

    Attributes:
        looks: of the tensors that it is for.
        plan: what this rank writes.
        metadata: what all ranks write.
    """

    looks: list[tuple[object, ...]]
    plan: SavePlan
    metadata: Metadata


class ShardWriter:
    """The shards of one save, on one rank. All ranks make it together.

    Args:
        tensors: all of them, by key.
        directory: of the checkpoint; the master has made it.
        group: the ranks.
        layout: of the last save, if there was one.

    Attributes:
        layout: of this save.
        parts: what this rank is to write, not copied yet, by key.
        subject: under which the ranks report to the master.

    Raises:
        RankError: they could not be planned.
    """

    def __init__(
        self, tensors: dict[str, DTensor], directory: Path, group: Group, layout: Layout | None = None
    ) -> None:
        self.subject = f"isc_runtime/shards/{next(_numbers)}"
        self._directory = directory
        self._rank = group.rank
        self._planner = _Planner()
        looks: list[tuple[object, ...]] = [
            (key, value.shape, value.dtype, value.placements) for key, value in tensors.items()
        ]

        def set_up() -> FileSystemWriter:
            self._planner.set_up_planner(dict(tensors), is_coordinator=group.is_master)
            # Synced below, once it is closed. What it gets are copies: there is nothing to copy ahead of the
            # write, for which it would ask the GPU for a stream.
            return FileSystemWriter(directory, sync_files=False, per_thread_copy_ahead=0)

        self._writer = group.each(set_up)
        if any(group.largest(layout is None or layout.looks != looks)):
            layout = self._make_layout(looks, group)
        assert layout is not None  # or it would have been made
        self.layout, plan = layout, layout.plan
        self.parts = group.each(lambda: self._planner.parts(plan))

    def _make_layout(self, looks: list[tuple[object, ...]], group: Group) -> Layout:
        local = group.gather(group.each(self._planner.create_local_plan))

        def plan_all() -> Layout:  # all ranks come to the same
            plans, metadata = self._planner.create_global_plan(local)
            return Layout(looks, self._writer.prepare_global_plan(plans)[group.rank], metadata)

        return group.each(plan_all)

    def write(self, copies: Mapping[str, Tensor]) -> Written:
        """Writes copies of this rank's parts, durably. In the background.

        Raises:
            OSError, RuntimeError: they could not be written.
        """
        self._planner.copies = copies
        results = self._writer.write_data(self.layout.plan, self._planner).wait()
        files = sorted(self._directory.glob(f"__{self._rank}_*"))
        for file in files:
            sync_file(file)
        sync_directory(self._directory)
        return Written(describe(files), results)

    def seal(self, written: list[Written]) -> Checksums:
        """Writes what binds the parts of all ranks together, durably. The master's, in the background.

        Args:
            written: by each rank.

        Returns:
            All files, that of the metadata among them.

        Raises:
            OSError: it could not be written.
        """
        self._writer.finish(self.layout.metadata, [one.results for one in written])
        sync_file(self._directory / METADATA)
        files = describe([self._directory / METADATA])
        for one in written:
            files |= one.files
        return files
