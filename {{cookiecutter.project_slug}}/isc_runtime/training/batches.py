"""A batch is whatever a dataset and its `collate_fn` make: a tree of tensors, sample after sample."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.sharding import group_of_one_model
from isc_runtime.tree import Path, leaves, mapped, name_of

COLUMNS = (Tensor, np.ndarray)  # with a row for each sample, as a rule

logger = logging.getLogger("train")


def size_of_batch(batch: Any) -> int:
    """How many samples a batch has: the first dimension of its first tensor that has dimensions.

    Raises:
        IscError: it holds no such tensor.
    """
    for _, leaf in leaves(batch):
        if isinstance(leaf, COLUMNS) and leaf.ndim:
            return int(leaf.shape[0])
    raise IscError(
        "A batch holds no tensor with a dimension for the samples",
        type(batch).__name__,
        "Let the dataset, or its collate_fn, return tensors, in a dict, a tuple or a dataclass.",
        ExitCode.DATA,
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device.

    What has a method `to` of its own moves itself: a PackedSequence, whose lengths stay on the CPU, a graph.
    """

    def move(_: Path, node: Any) -> Any:
        if isinstance(node, Tensor):
            return node.to(device, non_blocking=True)
        can_move = not isinstance(node, type) and callable(getattr(node, "to", None))
        return node.to(device) if can_move else node

    return mapped(batch, move)


def parts_of(batch: Any, parts: int) -> Iterator[tuple[Any, bool]]:
    """Splits a batch into parts of equal size; the last one may be smaller.

    A tensor, or an array of NumPy's, is cut if its first dimension is that of the batch's first one, and so
    is a list of so many plain values. All else in a dict or a dataclass, a temperature say, goes with each
    part.

    Where the ranks hold one model together they must call it equally often: then it is a collective, and a
    rank with fewer samples than parts says how many all make. A batch without samples comes as often.

    Args:
        batch: a tree of tensors.
        parts: how many, if it has as many samples; 1 leaves it as it is, whatever it is, and so is one
            without samples.

    Yields:
        Each part, and whether it is the last one.

    Raises:
        IscError: a list or a tuple holds tensors of which nobody knows how to cut them.
    """
    if parts == 1:
        yield batch, True
        return
    if size := size_of_batch(batch):
        _check_can_be_cut(batch, size)
    begins = list(range(0, size, -(-size // parts) or 1))
    number = _agreed(len(begins), size, parts)
    if not size:
        yield from ((batch, at == number) for at in range(1, number + 1))
        return
    if number != len(begins):
        begins = [size * at // number for at in range(number)]
    for begin, end in zip(begins, [*begins[1:], size], strict=True):
        yield _cut(batch, size, begin, end), end == size


def _agreed(own: int, size: int, wanted: int) -> int:
    """How many parts this rank makes, and all that must make equally many.

    Args:
        own: what it would make alone.
        size: of its batch.
        wanted: what --accumulate says.
    """
    group = group_of_one_model()
    if group is None:
        return own or 1
    most, least, smallest = group.largest(own, -(own or wanted), -(size or wanted))
    if most <= -least:
        return -least
    if -smallest < wanted:
        _warn_of_fewer(wanted)
    return min(wanted, -smallest)


@functools.cache  # once
def _warn_of_fewer(wanted: int) -> None:
    logger.warning(
        "[DATA] The batch of a rank has fewer samples than --accumulate %d makes parts. With --parallelism "
        "fsdp no rank makes more parts than another: theirs are larger. Give all ranks as many samples.",
        wanted,
    )


def _check_can_be_cut(batch: Any, size: int) -> None:
    """A list or a tuple is one of columns, each of them with a row for each sample: then all rows are cut.
    Or it is one of samples, such as images of unequal size, or of their descriptions.
    """
    rows = [(path, leaf.shape[0]) for path, leaf in leaves(batch) if isinstance(leaf, COLUMNS) and leaf.ndim]

    def check(path: Path, node: Any) -> Any:
        if not isinstance(node, list | tuple):
            return node
        within = [(where, count) for where, count in rows if where[: len(path)] == path]
        own = [count for where, count in within if len(where) == len(path) + 1]
        is_of_trees = len({where[len(path)] for where, _ in within if len(where) > len(path) + 1}) > 1
        counts = [count for _, count in within] if is_of_trees else own
        others = {count for where, count in rows if where[: len(path)] != path} - {size}
        if any(count != size for count in counts) or (counts and len(node) in others):
            raise IscError(
                f"A {type(node).__name__} in a batch holds tensors that have not all {size} rows, as the "
                "batch's first tensor has, so they cannot be split into parts",
                f"--accumulate, at {name_of(path) or 'the batch itself'}",
                "Leave --accumulate at 1 and lower --batch-size; or stack what has a row for a sample, and "
                "put what belongs to all samples into a dict.",
                ExitCode.DATA,
            )
        return node

    mapped(batch, check)


def _cut(batch: Any, size: int, begin: int, end: int) -> Any:
    """What has a value for each sample is cut; all else, a temperature say, goes with each part."""

    def cut(_: Path, node: Any) -> Any:
        if isinstance(node, COLUMNS):
            return node[begin:end] if node.ndim and node.shape[0] == size else node
        if isinstance(node, list | tuple) and len(node) == size:
            is_plain = not any(isinstance(leaf, COLUMNS) for _, leaf in leaves(node))
            return node[begin:end] if is_plain else node  # the names of the samples, say
        return node

    return mapped(batch, cut)
