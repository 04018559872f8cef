"""How large a training's state is, or will be at least."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import optim

from isc_runtime.tree import leaves

STEP = 4  # bytes of the scalar in which an optimizer counts the steps of a parameter

# For optimizers of torch's, how many tensors of a parameter's size they make in their first step.
MOMENTS: dict[type[optim.Optimizer], Callable[[dict[str, Any]], int]] = {
    optim.SGD: lambda group: int(group["momentum"] != 0),
    optim.Adam: lambda group: 3 if group["amsgrad"] else 2,
    optim.AdamW: lambda group: 3 if group["amsgrad"] else 2,
    optim.NAdam: lambda group: 2,
    optim.RAdam: lambda group: 2,
    optim.Adamax: lambda group: 2,
}


def size_of(state: Any) -> int:
    """Bytes of all tensors in a state."""
    tensors = (leaf for _, leaf in leaves(state) if isinstance(leaf, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def expected_size(parts: Iterable[Any]) -> int:
    """Bytes that the tensors of a training's parts will have in a checkpoint, at least.

    An optimizer makes its state in its first step. What one that is not torch's makes is not known before it,
    and taking a step to find out would not leave the training as it is.

    Args:
        parts: dicts, and objects with a `state_dict`.
    """
    return sum(
        _optimizer_size(part)
        if isinstance(part, optim.Optimizer)
        else size_of(part if isinstance(part, dict) else part.state_dict())
        for part in parts
    )


def _optimizer_size(optimizer: optim.Optimizer) -> int:
    if optimizer.state or type(optimizer) not in MOMENTS:
        return size_of(optimizer.state_dict())
    size = 0
    for group in optimizer.param_groups:
        moments = MOMENTS[type(optimizer)](group)
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        step = 0 if isinstance(optimizer, optim.SGD) else STEP
        size += sum(moments * parameter.numel() * parameter.element_size() + step for parameter in trained)
    return size
