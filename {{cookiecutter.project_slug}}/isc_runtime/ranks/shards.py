"""Tensors of which every rank holds a part: written by all ranks, read by any number of them.

A sharded checkpoint is a folder. Its `checkpoint.pt` is what it is in any checkpoint, but has a mark in place
of each tensor that lies in shards; beside it are the files of torch.distributed.checkpoint that hold those,
one of each rank and `.metadata`, which says where in them a part is. The key of a tensor there is its path in
the state: `model.blocks.0.mix.weight`, `optimizer.state.7.exp_avg`. A mark says along which dimension the
tensor is divided. What every rank has whole, and torch counts among the sharded tensors all the same, is in
its mark: a norm, say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from isc_runtime.tree import Path as Keys
from isc_runtime.tree import leaves, mapped

if TYPE_CHECKING:  # it takes a second to import, which a training without shards need not spend
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.tensor import DTensor

MARK = "isc_runtime.shards"  # of a mark's keys; part of the format, whatever the module is called
DIVIDED = "divided"  # the other one: along which dimension; older marks do not say it


def is_sharded(node: Any) -> TypeGuard[DTensor]:
    """Whether this is a tensor of which every rank holds a part."""
    return isinstance(node, Tensor) and hasattr(node, "device_mesh")


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor in shards; any other tensor. Nobody else is asked."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_expanded(tensor: Tensor) -> bool:
    """Whether values of this tensor, which is dense, share memory."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a dense tensor, one after the other: a view, where it is contiguous."""
    # A conjugate is the tensor that it is of, and a bit: its own bytes are made here.
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    # A single value may have any stride, and be called contiguous: torch does not view it as bytes.
    return (flat.as_strided((1,), (1,)) if flat.numel() == 1 else flat).view(torch.uint8)


def is_sum(node: Any) -> bool:
    """Whether ranks hold summands of this tensor, as torch leaves them of a norm of one in shards."""
    return is_sharded(node) and any(one.is_partial() for one in node.placements)


@torch.no_grad()
def added_up(tensor: DTensor) -> DTensor:
    """The same tensor, whole on each rank that holds a summand of it. A collective of these."""
    from torch.distributed.tensor import Replicate

    return tensor.redistribute(
        placements=[Replicate() if one.is_partial() else one for one in tensor.placements]
    )


@torch.no_grad()  # or `to_local` would return a view, and be part of a graph
def separate(state: Any) -> tuple[Any, dict[str, DTensor]]:
    """The state with marks in it, and the sharded tensors that they stand for, by key; no sums are in it."""
    tensors: dict[str, DTensor] = {}

    def mark(path: Keys, node: Any) -> Any:
        if not is_sharded(node):
            return node
        placements: Any = node.placements
        dimensions = [placement.dim for placement in placements if placement.is_shard()]
        if not dimensions:
            return {MARK: node.to_local()}
        key = ".".join(map(str, path))
        tensors[key] = node
        return {MARK: key, DIVIDED: dimensions[0]} if len(dimensions) == 1 else {MARK: key}

    return mapped(state, mark), tensors


class ShardedTensors:
    """The sharded tensors of a training, after whose like those of a checkpoint are made.

    Args:
        parts: of the training, by name.
        was_whole: whether the checkpoint is of a training without shards. Then what an optimizer keeps of
            a parameter, wherever in its state that is, is known by its size.
    """

    def __init__(self, parts: Mapping[str, Any], was_whole: bool = False) -> None:
        self._known: dict[Keys, DTensor] = {}
        self._sizes: dict[tuple[object, torch.Size], DTensor] = {}  # by part
        for name, part in parts.items():
            for path, leaf in leaves(part if isinstance(part, dict) else part.state_dict(), (name,)):
                self._note(path, leaf)
            if isinstance(part, torch.optim.Optimizer):  # what it keeps of a parameter is as that one is
                for index, parameter in enumerate(_parameters(part)):
                    self._note((name, "state", index), parameter)
        if was_whole and self._known:
            self._sizes = {
                (name, parameter.shape): parameter
                for name, part in parts.items()
                for parameter in _parameters(part)
                if is_sharded(parameter)
            }

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._known)

    def _note(self, path: Keys, leaf: Any) -> None:
        if is_sharded(leaf):
            self._known[path] = leaf

    def empty(self, path: Keys, size: torch.Size, dtype: torch.dtype, divided: int | None) -> Tensor:
        """Without values what is at this path in a state: in shards, or whole where nothing says how.

        Args:
            path: of it.
            size: of the whole tensor.
            dtype: of it.
            divided: along which dimension it was divided when it was saved, if that is known.
        """
        like = self._known.get(path)
        if like is not None and like.shape == size:
            return torch.empty_like(like, dtype=dtype)
        if divided is not None and self._known:
            from torch.distributed.tensor import Shard, empty

            some = next(iter(self._known.values()))
            placements = [Shard(divided) if one.is_shard() else one for one in some.placements]
            return empty(size, dtype=dtype, device_mesh=some.device_mesh, placements=placements)
        like = self.of(path, size)
        return torch.empty(size, dtype=dtype) if like is None else torch.empty_like(like, dtype=dtype)

    def of(self, path: Keys, size: torch.Size) -> DTensor | None:
        """The one that is at this path in a state, if there is one of this size."""
        found = self._known.get(path, self._known.get(path[:3]))
        return found if found is not None and found.shape == size else self._sizes.get((path[0], size))

    def is_beside(self, path: Keys, tensor: Tensor) -> bool:
        """Whether an optimizer that had whole parameters keeps this of one that is in shards now: sums of its
        rows, say. A count, which has no dimension, it keeps as it is."""
        return bool(self._sizes and tensor.dim() and len(path) > 3 and path[:3] in self._known)

    def everywhere(self, tensor: Tensor) -> Tensor:
        """What every rank has whole, as torch wants it beside what is in shards, if there is such a thing."""
        if not self._known:
            return tensor
        from torch.distributed.tensor import DTensor, Replicate

        mesh = next(iter(self._known.values())).device_mesh
        return DTensor.from_local(
            tensor.to(mesh.device_type), mesh, [Replicate()] * mesh.ndim, run_check=False
        )


def _parameters(optimizer: Any) -> list[Any]:
    """Of an optimizer, or of what wraps some."""
    return [one for group in getattr(optimizer, "param_groups", ()) for one in group["params"]]


def read(
    state: Any,
    directory: Path,
    files: Mapping[str, int],
    sharded: ShardedTensors,
    about_to_read: Callable[[set[str]], None] = lambda _: None,
) -> Any:
    """Fills the marks in a state with the tensors that they stand for. No rank talks to another.

    Args:
        state: what `checkpoint.pt` holds.
        directory: of the checkpoint.
        files: the sizes in bytes of those in it of which every byte is verified; no others are read.
        sharded: what has one of these becomes this rank's shard, and all else a whole tensor.
        about_to_read: called with the names of the files with shards that are read next.

    Raises:
        Exception: of many kinds: the files are not what torch writes, or the state is not theirs. No code
            that they may hold is run.
    """
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    from isc_runtime.ranks.shard_files import files_of, read_parts
    from isc_runtime.ranks.shard_metadata import read_metadata

    metadata = read_metadata(directory, files)
    filled, targets = _with_targets(state, metadata, sharded)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(targets, metadata)
    plan = planner.create_local_plan()
    about_to_read(files_of(plan, metadata.storage_data))
    read_parts(plan, planner, metadata.storage_data, directory)
    return filled


def _with_targets(state: Any, metadata: Metadata, sharded: ShardedTensors) -> tuple[Any, dict[str, Any]]:
    """The state with a tensor without values in place of each mark, and these by key."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    targets: dict[str, Any] = {}

    def fill(path: Keys, node: Any) -> Any:
        if not (isinstance(node, dict) and MARK in node and node.keys() <= {MARK, DIVIDED}):
            return node
        if isinstance(node[MARK], Tensor):
            return sharded.everywhere(node[MARK])
        found, divided = metadata.state_dict_metadata[node[MARK]], node.get(DIVIDED)
        assert isinstance(found, TensorStorageMetadata)  # nothing else was read
        if divided is not None and divided not in range(len(found.size)):
            raise ValueError(f"{node[MARK]} is divided along dimension {divided!r}, which it has not")
        target = sharded.empty(path, found.size, found.properties.dtype, divided)
        targets[node[MARK]] = target.detach()
        return targets[node[MARK]]

    return mapped(state, fill), targets


def distribute(state: Any, sharded: ShardedTensors) -> Any:
    """The state with this rank's shard of each whole tensor that a training has in shards. Nobody talks."""

    def shard(path: Keys, node: Any) -> Any:
        is_whole = isinstance(node, Tensor) and not is_sharded(node)
        like = sharded.of(path, node.shape) if is_whole else None
        if like is None:
            return sharded.everywhere(node) if is_whole and sharded.is_beside(path, node) else node
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(node, like.device_mesh, like.placements, src_data_rank=None)

    return mapped(state, shard)
