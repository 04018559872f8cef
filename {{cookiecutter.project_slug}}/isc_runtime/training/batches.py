"""A batch is whatever a dataset and its `collate_fn` make: a tree of tensors, sample after sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tree import Path, leaves, mapped


def size_of_batch(batch: Any) -> int:
    """How many samples a batch has: the first dimension of its first tensor that has dimensions.

    Raises:
        IscError: it holds no such tensor.
    """
    for _, leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.dim():
            return leaf.shape[0]
    raise IscError(
        "A batch holds no tensor with a dimension for the samples",
        type(batch).__name__,
        "Let the dataset, or its collate_fn, return tensors, in a dict, a tuple or a dataclass.",
        ExitCode.DATA,
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device."""
    return _each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=True))


def parts_of(batch: Any, parts: int) -> Iterator[tuple[Any, bool]]:
    """Splits a batch into parts of equal size; the last one may be smaller.

    Yields:
        Each part, and whether it is the last one.
    """
    size = size_of_batch(batch)
    each = -(-size // parts)
    for begin in range(0, size, each):
        end = min(begin + each, size)
        yield (batch if parts == 1 else _cut(batch, size, begin, end)), end == size


def _cut(batch: Any, size: int, begin: int, end: int) -> Any:
    """What has a value for each sample is cut; all else, a temperature say, goes with each part."""

    def cut(_: Path, node: Any) -> Any:
        if isinstance(node, Tensor):
            return node[begin:end] if node.dim() and node.shape[0] == size else node
        if isinstance(node, list | tuple) and len(node) == size:
            is_plain = not any(isinstance(leaf, Tensor) for _, leaf in leaves(node))
            return node[begin:end] if is_plain else node  # the names of the samples, say
        return node

    return mapped(batch, cut)


def _each_tensor(batch: Any, change: Any) -> Any:
    return mapped(batch, lambda _, node: change(node) if isinstance(node, Tensor) else node)
