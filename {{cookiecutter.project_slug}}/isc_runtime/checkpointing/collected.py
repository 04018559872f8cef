"""Gradients that are collected over several batches: what is there of them at a save is in no checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from isc_runtime.checkpointing.marks import Marker, is_readable
from isc_runtime.position import Position

logger = logging.getLogger("checkpoint")


class Collected:
    """Warns once of a training whose gradients go on from one batch to the next, and over a save.

    A training that makes its gradients anew has new tensors for them, or steps in each batch, but for those
    that are skipped: so only what is seen after two saves in a row is said. With several optimizers it is not
    asked: the gradients of one may be left by the other's backward pass.
    """

    def __init__(self) -> None:
        self._hook: Any = None  # on steps; torch goes through these, so it is not taken away in one
        self._waits = False  # for the next one
        self._is_seen = self._is_told = False

    def saved(self, parts: Mapping[str, Any]) -> None:
        """To be called at a save: looks at one gradient now, and before the next step of the optimizer."""
        optimizers = [part for part in parts.values() if isinstance(part, Optimizer)]
        position = next((part for part in parts.values() if isinstance(part, Position)), None)
        found = _first_with_gradient(parts)
        if self._is_told or self._waits or position is None or len(optimizers) != 1 or not found:
            return
        if self._hook is not None:
            self._hook.remove()
        name, parameter = found
        gradient, step, before = parameter.grad, position.progress.step, _mark(parameter.grad)

        def compare(*_: Any) -> None:
            if not self._waits:
                return
            self._waits = False
            is_later = position.progress.step > step  # a batch has passed without a step
            is_seen = is_later and parameter.grad is gradient and _mark(gradient) != before
            was_seen, self._is_seen = self._is_seen, is_seen
            if is_seen and was_seen:
                self._is_told = True
                logger.warning(
                    "[STATE] The gradients of %s are collected over several batches, and are not saved: a "
                    "resume in between begins without them. Let a batch be what one step takes, by a larger "
                    "--batch-size; --accumulate splits it into parts.",
                    name,
                )

        self._waits, self._hook = True, optimizers[0].register_step_pre_hook(compare)


def _first_with_gradient(parts: Mapping[str, Any]) -> tuple[str, Tensor] | None:
    """The first trained parameter, and its name, if its gradient is there and can be looked at."""
    for part, module in parts.items():
        if isinstance(module, nn.Module):
            for name, parameter in module.named_parameters():
                if is_readable(parameter.grad):
                    return f"{part}.{name}", parameter
    return None


def _mark(gradient: Any) -> Any:
    return Marker(frozenset(), set()).of(gradient)
