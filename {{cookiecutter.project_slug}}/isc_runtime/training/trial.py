"""A step that computes the gradients several times, and is taken back if it went astray."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import own_part
from isc_runtime.tree import mapped

State = list[tuple[Optimizer, dict[Any, Any], list[dict[str, Any]]]]  # of each: its state and its settings

_told: WeakKeyDictionary[Optimizer, Callable[[], None]] = WeakKeyDictionary()
logger = logging.getLogger("train")


def requires_closure(optimizer: Optimizer) -> bool:
    """Whether the `step` of an optimizer must be given what computes the gradients."""
    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def tell(optimizer: Optimizer, undone: Callable[[], None]) -> None:
    """Before a step that may be taken back: `undone` is called if it is. What takes one gradient never is."""
    if requires_closure(optimizer):
        _told[optimizer] = undone


class Trial:
    """A step of an optimizer that may go astray: a gradient within it is not finite.

    That alone is no failure: a line search tries steps that are too long. But where the last gradient was
    not finite, or the weights are not, weights and the optimizer's state go back to what they were. Of the
    state the tensors are copied when the first bad gradient is seen; what the step has written into them
    before that, stays.

    Args:
        optimizer: before its step.
        group: the ranks.
    """

    def __init__(self, optimizer: Optimizer, group: Group) -> None:
        self._optimizer = optimizer
        self._group = group
        inner = [value for value in vars(optimizer).values() if isinstance(value, Optimizer)]  # as SAM has it
        self._optimizers = [optimizer, *inner]
        parameters = {id(each): each for one in self._optimizers for each in _parameters(one)}
        self._begun: State = [
            (one, _copy(one.state, False), list(map(_settings, one.param_groups))) for one in self._optimizers
        ]
        self._copies = [(each, each.detach().clone()) for each in parameters.values()]
        self._state: State | None = None
        self._is_good = True

    def saw(self, norm: Any) -> None:
        """Notes the norm of a gradient within the step: of all ranks, and the same on all of them."""
        self._is_good = not isinstance(norm, Tensor) or bool(norm.isfinite())
        if not self._is_good and self._state is None:
            self._state = [(one, _copy(state), settings) for one, state, settings in self._begun]

    def end(self) -> None:
        """After the step: takes it back if it went astray. A collective if a gradient in it was bad."""
        undone = _told.pop(self._optimizer, None)
        if self._state is None:
            return
        bad = [not _is_finite(each) for each, _ in self._copies]
        astray = torch.tensor(float(any(bad) or not self._is_good), device=self._group.device)
        if not self._group.sum(astray):
            return
        self._undo(self._state)
        if undone is None:
            logger.warning("A step is taken back: a gradient within it was not finite")
        else:
            undone()

    @torch.no_grad()
    def _undo(self, states: State) -> None:
        for parameter, copy in self._copies:
            parameter.copy_(copy)
        for optimizer, state, settings in states:
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, before in zip(optimizer.param_groups, settings, strict=True):
                group.update(before)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _copy(state: Any, with_tensors: bool = True) -> dict[Any, Any]:
    """A copy of an optimizer's state, with copies of its tensors, which a step changes where they are."""

    def own(_: object, part: Any) -> Any:
        return part.detach().clone() if with_tensors and isinstance(part, Tensor) else part

    return {key: mapped(value, own) for key, value in state.items()}


def _is_finite(parameter: Tensor) -> bool:
    return bool(own_part(parameter).detach().isfinite().all())
