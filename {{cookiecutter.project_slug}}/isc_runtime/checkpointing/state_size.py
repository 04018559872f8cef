"""How large a training's state is, or will be."""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from isc_runtime.tree import leaves


def size_of(state: Any) -> int:
    """Bytes of all tensors in a state."""
    tensors = (leaf for _, leaf in leaves(state) if isinstance(leaf, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def expected_size(parts: Iterable[Any]) -> int:
    """Bytes that the tensors of a training's parts have in a checkpoint, once it has taken a step.

    Args:
        parts: dicts, and objects with a `state_dict`.
    """
    return sum(
        _optimizer_size(part)
        if isinstance(part, torch.optim.Optimizer)
        else size_of(part if isinstance(part, dict) else part.state_dict())
        for part in parts
    )


def _optimizer_size(optimizer: torch.optim.Optimizer) -> int:
    """An optimizer makes its state in its first step, so it takes that step with zeros in a copy of it, one
    parameter at a time: that needs the memory of one."""
    if optimizer.state:
        return size_of(optimizer.state_dict())
    trial, size = copy.copy(optimizer), 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            zeros = torch.nn.Parameter(torch.zeros_like(parameter), parameter.requires_grad)
            zeros.grad = torch.zeros_like(zeros) if parameter.requires_grad else None
            trial.state = defaultdict(dict)
            trial.param_groups = [{**group, "params": [zeros]}]
            with contextlib.suppress(TypeError):  # LBFGS wants a closure: it is taken as it is
                trial.step()
            size += size_of(dict(trial.state))
    return size
