"""Which tensors hold a NaN or an infinity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from isc_runtime.ranks.shards import own_part
from isc_runtime.tree import leaves, name_of

WITHOUT = (
    getattr(torch, "float4_e2m1fn_x2", None),
)  # types that have neither; torch 2.8 and newer know this one


def names_of_not_finite(state: Any, name: str = "", trained: frozenset[str] | None = None) -> Iterator[str]:
    """The names of the tensors in a state that hold a NaN or an infinity, or of which this rank's part does.

    Args:
        state: dicts, lists and tuples of tensors.
        name: of the state itself, with which the names begin.
        trained: names of those that may not even hold -inf. Others may: a mask is made of it, and what
            diverges holds a NaN or a +inf as well. None: of all.
    """
    for path, node in leaves(state, (name,) if name else ()):
        own, leaf = name_of(path), own_part(node)
        if not (_is_finite(leaf) or (trained is not None and own not in trained and _is_mask(leaf))):
            yield own


def _is_mask(tensor: torch.Tensor) -> bool:
    """Whether what is not finite is -inf."""
    return not tensor.is_complex() and bool((_with_arithmetic(tensor) < torch.inf).all())


def _is_finite(leaf: Any) -> bool:
    return (
        not isinstance(leaf, torch.Tensor)
        or not (leaf.is_floating_point() or leaf.is_complex())
        or leaf.dtype in WITHOUT
        or _all_finite(_with_arithmetic(leaf))
    )


def _with_arithmetic(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in a type that can be added up: float8 cannot."""
    if tensor.dtype == torch.complex32:
        return torch.view_as_real(tensor)
    return tensor if tensor.element_size() > 1 else tensor.float()


def _all_finite(tensor: torch.Tensor) -> bool:
    # The sum is fast, and never finite with a NaN or an infinity in it.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
