"""What can be saved so that it can be loaded again, without running code: `torch.load(weights_only=True)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.shards import is_expanded, own_part
from isc_runtime.tree import Path, name_of, nodes

PLAIN = (bool, int, float, str, complex, bytes, type(None))
OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout)  # as optimizers keep them
CONVERT = "It could not be loaded again: keep it as a number, text or tensor, or dicts or lists of these."


def check_state(state: Any) -> None:
    """Refuses a state that could be saved, and not be loaded again as it is. Raises IscError."""
    for path, node in nodes(state):
        check_loadable(path, node)


def check_loadable(path: Path, node: Any) -> None:
    """Refuses a node of a state that could be saved, and not be loaded again as it is.

    Args:
        path: of the node in the state.
        node: a leaf, or a dict, list or tuple; what is in it is not looked at.

    Raises:
        IscError: it is of another kind; the message says what to save instead.
    """
    if isinstance(node, Tensor):
        wrong = _wrong_with_tensor(own_part(node))
    elif isinstance(node, dict):
        keys = [key for key in node if not _is_good_key(key)]
        kind = f"A dict with the key {keys[0]!r}, a {type(keys[0]).__name__}," if keys else ""
        wrong = (kind, "It could not be loaded again: convert its keys to str or int.") if keys else None
    elif type(node) in (*PLAIN, *OF_TORCH, list, tuple) or _is_number_of_numpy(node):
        wrong = None
    else:
        wrong = f"A {type(node).__module__}.{type(node).__name__}", CONVERT
    if wrong is not None:
        what, hint = wrong
        raise IscError(f"{what} cannot be part of a checkpoint", name_of(path), hint, ExitCode.SAVE)


def _is_good_key(key: Any) -> bool:
    return all(map(_is_good_key, key)) if type(key) is tuple else type(key) in PLAIN


def _is_number_of_numpy(node: Any) -> bool:
    """What is saved in its place is a plain value."""
    return isinstance(node, np.generic) and type(node.item()) in PLAIN


def _wrong_with_tensor(tensor: Tensor) -> tuple[str, str] | None:
    if type(tensor) not in (Tensor, Parameter):
        return f"A {type(tensor).__name__}, a subclass of Tensor,", "Save the plain tensors in it."
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "A tensor that is sparse or nested", "Save its values and indices, or a dense one."
    if tensor.is_meta:
        return "A tensor on the meta device, without values,", "Give it values before training."
    if is_expanded(tensor):
        return "An expanded tensor, whose values share memory,", "Save a clone() of it."
    return None
