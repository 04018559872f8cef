"""A step that is not finite is skipped, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.parallel import NOTHING_COUNTS
from isc_runtime.ranks.shards import is_sharded
from isc_runtime.ranks.untouched import is_of_other_form, may_change, put_back, untouched
from isc_runtime.training import trial
from isc_runtime.training.fusing import fuse
from isc_runtime.tree import mapped

logger = logging.getLogger("train")

Table = dict[str, Tensor | None]  # the buffers or the parameters of a module, as torch keeps them


class StepGuard:
    """Lets a step of the optimizer happen, or takes back what its forward pass has changed in the model.

    That are buffers: running statistics, what spectral norm keeps, queues; and codebooks, which are frozen
    parameters in some models. They are copied before each step: neither torch's batch normalization nor what
    is written through `.data` tells torch's version counter. Buffers and parameters that were bound anew are
    bound again to what they were; what `get_extra_state` tells, as a count, is set again. Trained parameters
    change in a step only, and are not looked at.

    Where the optimizer can leave a step out by itself (torch's fused ones can), nobody waits for the device:
    it decides, and counts, and `look` reads that once in a while.

    Args:
        model: whose forward pass may change its buffers.
        metrics: where skipped steps are counted, a part of the training's state; tensors if a device counts.
        most: so many skipped steps in a row end the training.
    """

    def __init__(self, model: nn.Module, metrics: dict[str, Any], most: int) -> None:
        self._model = model
        self._metrics = metrics
        self._most = most
        # The parameters of a sharded model are bound anew all the time.
        self._is_sharded = any(is_sharded(parameter) for parameter in model.parameters())
        self._tables: list[tuple[Table, Table]] = []  # each with what it held before the forward pass
        self._copies: dict[tuple[int, str], Tensor] = {}  # by the table's number and the tensor's name
        self._pairs: list[tuple[Tensor, Tensor]] = []  # the copy of each tensor that is copied, and that
        self._extra: list[tuple[nn.Module, Any]] = []  # what modules told of themselves before it
        self._step: int | None = None  # the last one that was asked about
        self._is_skipped = False  # by one of its optimizers
        self._before = 0, math.inf  # skipped in a row and at which scale, before this step
        self._waited: int | None = None  # the last step for which an answer was waited for
        self._on_device: _OnDevice | None = None  # if that decides
        # The schedule goes on when a step is skipped, be it the first: torch takes that for a mistake.
        warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)` before")
        metrics |= {"skipped": 0, "skipped_in_a_row": 0, "skipped_at_scale": math.inf}

    @torch.no_grad()
    def remember(self) -> None:
        """Before the forward pass: this is what a skipped step goes back to."""
        self._tables = [(table, dict(table)) for table in self._find_tables()]
        self._extra = list(_extra_states(self._model))
        self._pairs = list(self._find_pairs())
        if self._pairs:
            torch._foreach_copy_([copy for copy, _ in self._pairs], [tensor for _, tensor in self._pairs])

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """The model is in evaluation; whatever the block changes in it is taken back afterwards."""
        with untouched(self._model):
            self._model.eval()
            yield

    def _find_tables(self) -> Iterator[Table]:
        for module in self._model.modules():
            yield module._buffers
            if not self._is_sharded:
                yield module._parameters  # type: ignore[misc]  # a Parameter is a Tensor

    def _find_pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (_, before) in enumerate(self._tables):
            for name, tensor in before.items():
                if tensor is None or not may_change(tensor):
                    continue
                copy = self._copies.get((number, name))
                if copy is None or is_of_other_form(tensor, copy):
                    copy = self._copies[number, name] = torch.empty_like(tensor)
                yield copy, tensor

    def allows(self, norm: Tensor, step: int, scaler: GradScaler, optimizer: Optimizer | None = None) -> bool:
        """Whether to take the step; if not, the model is as it was at `remember`.

        With several optimizers it is asked for each of them; a step that one of them skips counts once.

        Args:
            norm: of the gradient of all ranks: the same on all of them, and so is the answer; NOTHING_COUNTS
                if the batch has nothing to train on.
            step: the training's, for the log.
            scaler: with one that is enabled an overflow is no failure as long as it scales less and less.
            optimizer: whose step comes next, if nothing else depends on the answer. One that can leave a step
                out by itself is told to, on the device, and the answer is True at once. Without it, with any
                other, and with one that hooks follow, the answer is waited for.

        Raises:
            IscError: too many steps in a row were not finite.
        """
        if optimizer is not None:
            fuse(optimizer)
        is_possible = optimizer is not None and not scaler.is_enabled() and _can_leave_out(optimizer)
        # What was bound anew cannot be bound again by a device, nor does it know of extra states.
        is_possible = is_possible and not self._extra and not self._has_other_form()
        if is_possible and step != self._waited:  # what is asked twice in a step is asked in one way
            self._leave_out(norm, step, optimizer)
            return True
        self._waited = step
        if hasattr(optimizer, "found_inf"):  # of an earlier step
            setattr(optimizer, "found_inf", None)  # noqa: B010  # mypy knows no other way
        if step != self._step:
            before = int(self._metrics["skipped_in_a_row"]), float(self._metrics["skipped_at_scale"])
            self._step, self._is_skipped, self._before = step, False, before
        if norm.isfinite():
            if not self._is_skipped:
                self._metrics |= {"skipped_in_a_row": 0, "skipped_at_scale": math.inf}
            if optimizer is not None:
                trial.tell(optimizer, partial(self._skip, step, scaler))
            return True
        self._skip(step, scaler, is_empty=bool(norm == NOTHING_COUNTS))
        return False

    def _has_other_form(self) -> bool:
        is_bound_anew = any(_is_bound_anew(table, before) for table, before in self._tables)
        return is_bound_anew or any(is_of_other_form(tensor, copy) for copy, tensor in self._pairs)

    def _skip(self, step: int, scaler: GradScaler, is_empty: bool = False) -> None:
        """Takes back what the step's forward passes have changed. Raises IscError: it was one too many."""
        self._take_back()
        if not self._is_skipped:  # by another optimizer, in the same step
            self._is_skipped = True
            self._count(step, scaler, is_empty)

    def _count(self, step: int, scaler: GradScaler, is_empty: bool) -> None:
        """Counts a step that is skipped. Raises IscError: it was one too many."""
        in_a_row, scale = self._before
        self._metrics["skipped"] += 1
        if scaler.is_enabled():
            self._metrics["skipped_at_scale"] = scaler.get_scale()
            if 1 < scaler.get_scale() < scale:  # it comes down, and can fall further
                return
        self._metrics["skipped_in_a_row"] = in_a_row = in_a_row + 1
        self._report(step, in_a_row, is_empty)

    def _report(self, step: int, in_a_row: int, is_empty: bool, more: str = "") -> None:
        why = "nothing in its batch counts" if is_empty else "loss or gradient are not finite"
        logger.warning(f"step {step} is skipped, {why}: number {in_a_row} in a row{more}")
        if in_a_row >= self._most and is_empty:
            raise IscError(
                f"{self._most} steps in a row were skipped, the last one because nothing in its batch counts",
                f"step {step}",
                "Look at the data, and at what batch_loss counts: the count was 0 on all ranks, as where all "
                "labels are ignored.",
                ExitCode.DATA,
            )
        if in_a_row >= self._most:
            raise IscError(
                f"{self._most} steps in a row were not finite",
                f"step {step}",
                "Lower --learning-rate or look at the data; the last checkpoint is from before it.",
                ExitCode.DIVERGED,
            )

    @torch.no_grad()
    def _leave_out(self, norm: Tensor, step: int, optimizer: Any) -> None:
        """Lets the device decide: the optimizer's step does nothing if it is not finite; buffers go back."""
        is_bad = norm.isfinite().logical_not()
        optimizer.found_inf, optimizer.grad_scale = is_bad.float(), None  # as torch's GradScaler tells it
        for copy, tensor in self._pairs:
            # Through `.data` no change, for whoever counts these.
            target = tensor.data if isinstance(tensor, nn.Parameter) else tensor
            target.copy_(torch.where(is_bad.to(tensor.device), copy, target))
        if self._on_device is None:
            self._on_device = _OnDevice(self._metrics, is_bad.device)
        if step != self._step:
            self._step = step
            self._on_device.begin(self._metrics)
        self._on_device.count(is_bad, norm == NOTHING_COUNTS, step, self._metrics)

    def look(self) -> dict[str, float]:
        """Reads what the device has counted since the last look, with the log line: waits for it.

        Returns:
            For the log how many steps were skipped in all, if any were.

        Raises:
            IscError: too many steps in a row were not finite.
        """
        skipped = int(self._metrics["skipped"])
        if self._on_device is not None:
            longest, last, new, is_empty = self._on_device.look(self._metrics)
            if new:
                self._report(last, longest, bool(is_empty), f"; {new} since the last line" if new > 1 else "")
        return {"skipped": skipped} if skipped else {}

    def _take_back(self) -> None:
        for table, before in self._tables:
            if _is_bound_anew(table, before):
                table.clear()
                table.update(before)
        for copy, tensor in self._pairs:
            put_back(tensor, copy)
        for module, state in self._extra:
            module.set_extra_state(state)


def _extra_states(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """The modules that tell more than tensors, and copies of that. Some tell what a device has, packed into
    bytes, which takes longer than a step."""
    for module in model.modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            state = module.get_extra_state()
            if not isinstance(state, Tensor | bytes | io.BytesIO):
                yield module, mapped(state, _copied)


def _copied(_: object, node: Any) -> Any:
    if isinstance(node, Tensor):  # which may be one that a batch has computed, and deepcopy refuses
        return node.detach().clone()
    return node if isinstance(node, dict | list | tuple) else deepcopy(node)


def _is_bound_anew(table: Table, before: Table) -> bool:
    return len(table) > len(before) or any(table.get(name) is not tensor for name, tensor in before.items())


class _OnDevice:
    """Counts skipped steps without asking the device for a number.

    Args:
        metrics: where it goes on from, and counts.
        device: where the steps are taken.
    """

    def __init__(self, metrics: dict[str, Any], device: torch.device) -> None:
        self._device = device
        self.begin(metrics)
        self._longest = self._before[1]
        self._last, self._new, self._is_empty = self._zero(), self._zero(), self._zero()

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.int64, device=self._device)

    def begin(self, metrics: dict[str, Any]) -> None:
        """A step begins, of which each optimizer may be asked about."""
        names = ("skipped", "skipped_in_a_row")
        self._before = [torch.as_tensor(metrics[name], device=self._device) for name in names]
        self._is_bad = torch.zeros((), dtype=torch.bool, device=self._device)

    def count(self, is_bad: Tensor, is_empty: Tensor, step: int, metrics: dict[str, Any]) -> None:
        """Counts the step, once, if one of its optimizers leaves it out."""
        self._new = self._new + (is_bad & ~self._is_bad)
        self._is_bad = self._is_bad | is_bad
        skipped, in_a_row = self._before
        metrics["skipped"] = skipped + self._is_bad
        metrics["skipped_in_a_row"] = (in_a_row + 1) * self._is_bad
        self._longest = torch.maximum(self._longest, metrics["skipped_in_a_row"])
        self._last = torch.where(self._is_bad, torch.full_like(self._last, step), self._last)
        self._is_empty = torch.where(is_bad, is_empty.to(torch.int64), self._is_empty)

    def look(self, metrics: dict[str, Any]) -> tuple[int, int, int, int]:
        """The longest row, the last step that was skipped, how many were, since the last look, and whether
        nothing counted in the last one."""
        values = [self._longest, self._last, self._new, self._is_empty]
        longest, last, new, is_empty = torch.stack(values).tolist()
        self._longest, self._new = torch.as_tensor(metrics["skipped_in_a_row"]), self._zero()
        return longest, last, new, is_empty


def _can_leave_out(optimizer: Optimizer) -> bool:
    """Whether its step does nothing when it is told on the device that it should not, as torch's fused do.

    Hooks that follow each step, an average of the weights, would follow that one too.
    """
    is_followed = getattr(optimizer, "_optimizer_step_post_hooks", ()) or _global_optimizer_post_hooks
    is_able = bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and not is_followed
    return is_able and not trial.requires_closure(optimizer)  # of which the first gradient does not say all
