"""A step that is not finite is skipped, and leaves nothing behind."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from isc_runtime.errors import ExitCode, IscError

logger = logging.getLogger("train")


SMALL = 2**16  # elements; of a larger buffer torch's version counter is asked whether it was changed


class StepGuard:
    """Lets a step of the optimizer happen, or takes back what its forward pass has changed in the model.

    That are buffers: running statistics, what spectral norm keeps, queues. Small ones are copied before each
    step: batch normalization changes its own without telling torch's version counter. Larger ones, masks
    for the most part, only when something has changed them.

    Args:
        model: whose forward pass may change its buffers.
        metrics: where skipped steps are counted, a part of the training's state.
        most: so many skipped steps in a row end the training.
    """

    def __init__(self, model: nn.Module, metrics: dict[str, Any], most: int) -> None:
        self._model = model
        self._metrics = metrics
        self._most = most
        self._copies: dict[str, tuple[int, Tensor]] = {}  # by name: the version of the buffer, and its copy
        self._step: int | None = None  # the last one that was asked about
        self._is_skipped = False  # by one of its optimizers
        self._before = 0, math.inf  # skipped in a row and at which scale, before this step
        # The schedule goes on when a step is skipped, be it the first: torch takes that for a mistake.
        warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)` before")
        metrics |= {"skipped": 0, "skipped_in_a_row": 0, "skipped_at_scale": math.inf}

    @torch.no_grad()
    def remember(self) -> None:
        """Before the forward pass: this is what a skipped step goes back to."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, buffer in self._model.named_buffers():
            version, copy = self._copies.get(name, (-1, None))
            if copy is None or copy.shape != buffer.shape or copy.dtype != buffer.dtype:
                copy = torch.empty_like(buffer)
            elif version == buffer._version and buffer.numel() > SMALL:
                continue
            pairs.append((copy, buffer))
            self._copies[name] = (buffer._version, copy)
        if pairs:
            torch._foreach_copy_([copy for copy, _ in pairs], [buffer for _, buffer in pairs])

    def allows(self, norm: Tensor, step: int, scaler: GradScaler) -> bool:
        """Whether to take the step; if not, the model is as it was at `remember`.

        With several optimizers it is asked for each of them; a step that one of them skips counts once.

        Args:
            norm: of the gradient of all ranks: the same on all of them, and so is the answer.
            step: the training's, for the log.
            scaler: with one that is enabled an overflow is no failure as long as it scales less and less.

        Raises:
            IscError: too many steps in a row were not finite.
        """
        if step != self._step:
            before = self._metrics["skipped_in_a_row"], float(self._metrics["skipped_at_scale"])
            self._step, self._is_skipped, self._before = step, False, before
        if norm.isfinite():
            if not self._is_skipped:
                self._metrics |= {"skipped_in_a_row": 0, "skipped_at_scale": math.inf}
            return True
        self._take_back()
        if not self._is_skipped:  # by another optimizer, in the same step
            self._is_skipped = True
            self._count(step, scaler)
        return False

    def _count(self, step: int, scaler: GradScaler) -> None:
        """Counts a step that is skipped. Raises IscError: it was one too many."""
        in_a_row, scale = self._before
        self._metrics["skipped"] += 1
        if scaler.is_enabled():
            self._metrics["skipped_at_scale"] = scaler.get_scale()
            if 1 < scaler.get_scale() < scale:  # it comes down, and can fall further
                return
        self._metrics["skipped_in_a_row"] = in_a_row = in_a_row + 1
        logger.warning(f"step {step} is skipped, loss or gradient are not finite: number {in_a_row} in a row")
        if in_a_row >= self._most:
            raise IscError(
                f"{self._most} steps in a row were not finite",
                f"step {step}",
                "Lower --learning-rate or look at the data; the last checkpoint is from before it.",
                ExitCode.DIVERGED,
            )

    @torch.no_grad()
    def _take_back(self) -> None:
        for name, buffer in self._model.named_buffers():
            if name in self._copies:
                buffer.copy_(self._copies[name][1])
