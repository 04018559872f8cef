"""Tensors of which every rank holds a part: written by all ranks, read by any number of them.

A sharded checkpoint is a folder. Its `checkpoint.pt` is what it is in any checkpoint, but has a mark in place
of each tensor that lies in shards; beside it are the files of torch.distributed.checkpoint that hold those,
one of each rank and `.metadata`, which says where in them a part is. The key of a tensor there is its path in
the state: `model.blocks.0.mix.weight`, `optimizer.state.7.exp_avg`.

torch.distributed.checkpoint is used through what it offers to planners and writers: its own `save` would talk
among the ranks in the background, and does not wait for the disk where it should.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor, distribute_tensor

from isc_runtime.distributed import Group
from isc_runtime.durable import Described, describe, sync_directory, sync_file

MARK = "isc_runtime.shards"  # the only key of a mark, whose value is the key of the tensor
WHOLE, SHARDED = "whole", "sharded"  # the formats of a checkpoint, as its manifest's details name them
METADATA = ".metadata"  # torch's name for it
Keys = tuple[object, ...]  # a path in a state

_numbers = itertools.count()  # of saves; all ranks count alike


def replaced(state: Any, change: Callable[[Keys, Any], Any], path: Keys = ()) -> Any:
    """A state of dicts, lists and tuples with `change(path, node)` in place of each node that it changes."""
    changed = change(path, state)
    if changed is not state:
        return changed
    if isinstance(state, dict):
        return {key: replaced(value, change, (*path, key)) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(replaced(value, change, (*path, index)) for index, value in enumerate(state))
    return state


def separate(state: Any) -> tuple[Any, dict[str, DTensor]]:
    """The state with marks in it, and the sharded tensors that they stand for, by key."""
    tensors: dict[str, DTensor] = {}

    def mark(path: Keys, node: Any) -> Any:
        if not isinstance(node, DTensor):
            return node
        key = ".".join(map(str, path))
        tensors[key] = node
        return {MARK: key}

    return replaced(state, mark), tensors


@dataclass(frozen=True)
class Written:
    """What one rank has written, durably.

    Attributes:
        files: its files, as a manifest describes them.
        results: where in them its parts are.
    """

    files: Described
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


class ShardedSave:
    """The shards of one save, on one rank. All ranks make it together.

    Args:
        tensors: all of them, by key.
        directory: of the checkpoint; the master has made it.
        group: the ranks.

    Attributes:
        parts: what this rank is to write, not copied yet, by key.
        subject: under which the ranks report to the master.

    Raises:
        RankError: they could not be planned.
    """

    def __init__(self, tensors: dict[str, DTensor], directory: Path, group: Group) -> None:
        self.subject = f"isc_runtime/shards/{next(_numbers)}"
        self._directory = directory
        self._rank = group.rank
        self._writer = FileSystemWriter(directory, sync_files=False)  # synced below, once it is closed
        self._planner = _Planner()
        self._planner.set_up_planner(dict(tensors), is_coordinator=group.is_master)
        plans = group.on_each(self._planner.create_local_plan)
        plans, self._metadata = self._planner.create_global_plan(plans)  # all ranks come to the same
        self._plan = self._writer.prepare_global_plan(plans)[group.rank]
        self.parts = self._planner.parts(self._plan)

    def write(self, copies: Mapping[str, Tensor]) -> Written:
        """Writes copies of this rank's parts, durably. In the background.

        Raises:
            OSError, RuntimeError: they could not be written.
        """
        self._planner.copies = copies
        results = self._writer.write_data(self._plan, self._planner).wait()
        files = sorted(self._directory.glob(f"__{self._rank}_*"))
        for file in files:
            sync_file(file)
        sync_directory(self._directory)
        return Written(describe(files), results)

    def seal(self, written: list[Written]) -> Described:
        """Writes what binds the parts of all ranks together, durably. The master's, in the background.

        Args:
            written: by each rank.

        Returns:
            All files, that of the metadata among them.

        Raises:
            OSError: it could not be written.
        """
        self._writer.finish(self._metadata, [one.results for one in written])
        sync_file(self._directory / METADATA)
        files = describe([self._directory / METADATA])
        for one in written:
            files |= one.files
        return files


class Counterparts:
    """The sharded tensors of a training, after whose like those of a checkpoint are made.

    Args:
        parts: of the training, by name.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._known: dict[Keys, DTensor] = {}
        for name, part in parts.items():
            replaced(part if isinstance(part, dict) else part.state_dict(), self._note, (name,))
            if isinstance(part, torch.optim.Optimizer):  # what it keeps of a parameter is as that one is
                parameters = [parameter for group in part.param_groups for parameter in group["params"]]
                for index, parameter in enumerate(parameters):
                    self._note((name, "state", index), parameter)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._known)

    def _note(self, path: Keys, node: Any) -> Any:
        if isinstance(node, DTensor):
            self._known[path] = node
        return node

    def of(self, path: Keys, size: torch.Size) -> DTensor | None:
        """The counterpart of a tensor at this path in a state, if there is one of its size."""
        found = self._known.get(path, self._known.get(path[:3]))
        return found if found is not None and found.shape == size else None


def read(state: Any, directory: Path, counterparts: Counterparts) -> Any:
    """Fills the marks in a state with the tensors that they stand for. No rank talks to another.

    Args:
        state: what `checkpoint.pt` holds.
        directory: of the checkpoint, every byte of which is verified: `.metadata` is a pickle.
        counterparts: what has one of these becomes this rank's shard, and all else a whole tensor.

    Raises:
        KeyError: the state is not the one that these files belong to.
    """
    reader = FileSystemReader(directory)
    metadata = reader.read_metadata()
    targets: dict[str, Any] = {}

    def fill(path: Keys, node: Any) -> Any:
        if not (isinstance(node, dict) and node.keys() == {MARK}):
            return node
        found = metadata.state_dict_metadata[node[MARK]]
        assert isinstance(found, TensorStorageMetadata)
        like, dtype = counterparts.of(path, found.size), found.properties.dtype
        empty = torch.empty(found.size, dtype=dtype) if like is None else torch.empty_like(like, dtype=dtype)
        targets[node[MARK]] = empty.detach()
        return targets[node[MARK]]

    filled = replaced(state, fill)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(targets, metadata)
    reader.set_up_storage_reader(metadata, is_coordinator=False)
    reader.read_data(planner.create_local_plan(), planner).wait()
    return filled


def distribute(state: Any, counterparts: Counterparts) -> Any:
    """The state with this rank's shard of each whole tensor that has a counterpart. No rank talks."""

    def shard(path: Keys, node: Any) -> Any:
        like = counterparts.of(path, node.shape) if isinstance(node, Tensor) else None
        if like is None:
            return node
        return distribute_tensor(node, like.device_mesh, like.placements, src_data_rank=None)

    return replaced(state, shard)
