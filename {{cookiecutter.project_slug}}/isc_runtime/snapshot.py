"""A copy of the training's state that stays as it is while the training goes on."""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from isc_runtime.errors import ExitCode, IscError

PLAIN = (bool, int, float, complex, str, bytes)


class Snapshot:
    """Copies states into host memory that is allocated once and used again for every save."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[object, ...], torch.Tensor] = {}

    def take(self, state: Any, path: tuple[object, ...] = ()) -> Any:
        """`state` with each tensor replaced by its copy; valid until the next call.

        Args:
            state: dicts, lists and tuples of tensors and of plain values.
            path: where in the whole state this part is.

        Raises:
            IscError: something in it could be saved, but not loaded with `weights_only=True`.
        """
        if isinstance(state, torch.Tensor):
            return self._copy(state.detach(), path)
        if isinstance(state, dict):
            return {key: self.take(value, (*path, key)) for key, value in state.items()}
        if type(state) in (list, tuple):
            return type(state)(self.take(value, (*path, index)) for index, value in enumerate(state))
        if isinstance(state, np.generic):
            return state.item()
        if state is None or type(state) in PLAIN:
            return state
        raise IscError(
            f"A {type(state).__module__}.{type(state).__name__} cannot be part of a checkpoint",
            ".".join(map(str, path)),
            "It could not be loaded again: keep it as a number, text or tensor, or dicts or lists of these.",
            ExitCode.SAVE,
        )

    def _copy(self, tensor: torch.Tensor, path: tuple[object, ...]) -> torch.Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            # pinned: a GPU copies into it at full speed, without a detour through the driver's own buffer
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[path] = buffer
        return buffer.copy_(tensor)


def size_of(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(size_of(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(size_of(value) for value in state)
    return 0


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


def first_not_finite(state: Any, name: str = "") -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None."""
    if isinstance(state, torch.Tensor):
        return None if not state.is_floating_point() or bool(state.isfinite().all()) else name
    if isinstance(state, dict):
        parts = [(f"{name}.{key}".lstrip("."), value) for key, value in state.items()]
        return next(filter(None, (first_not_finite(value, part) for part, value in parts)), None)
    return None
