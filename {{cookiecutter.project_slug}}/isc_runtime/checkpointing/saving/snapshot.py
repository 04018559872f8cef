"""A copy of the training's state that stays as it is while the training goes on."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isc_runtime.checkpointing.saving.loadable import check_loadable
from isc_runtime.checkpointing.saving.pinned import PinnedMemory
from isc_runtime.checkpointing.saving.unchanged import Pairs, Unchanged, differ, samples_of
from isc_runtime.ranks.device import use_in_this_thread
from isc_runtime.ranks.shards import is_sharded, own_part
from isc_runtime.tree import Path, leaves, mapped

# Tensors by their address, each with those in which torch counts its changes: with none if it is frozen.
Owned = Mapping[int, list[Tensor]]

CPU = torch.device("cpu")


class Snapshot:
    """Copies states into host memory that is allocated once and used again for every save.

    What nothing but an optimizer's step changes need not be copied at once: `take` defers it, `complete`
    copies it in the background while the next batch is computed, and `wait_until_copied`, called before that
    step, waits for it. What is frozen is not copied again. What is on a GPU is copied by the GPU, on a
    stream of its own: the training is never waited for.

    Attributes:
        is_at_once: whether the next `take` copies all by itself, and puts nothing off.
        is_left_behind: whether something else than a step has changed weights after they were saved, and
            before the next step: other weights may have been swapped in while they were saved.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self._buffers: dict[tuple[object, ...], Tensor] = {}
        self._pinned = PinnedMemory()
        self._deferred: Pairs = []
        self._counting: list[Tensor] = []  # in which torch counts the changes of what only steps change
        self._versions: list[int] = []  # of these, when the snapshot was taken
        self._samples: Pairs = []  # some values of what only steps change, and what they were then
        self._is_torn: bool | None = None  # not known before the step
        self._is_whole = False  # it was asked whether it is torn, and was not
        self.is_at_once = self.is_left_behind = False
        self._unchanged = Unchanged()
        self._has_changed = False  # what is frozen
        # Two threads that use a Mac's GPU at once may kill the process (pytorch/pytorch#197805, torch 2.14).
        self._may_defer = device.type != "mps"
        self._lock = threading.Lock()  # the background asks whether it is torn, the training decides
        self._copied = threading.Event()
        self._copied.set()
        in_thread = partial(use_in_this_thread, device)
        self._copiers = ThreadPoolExecutor(2, thread_name_prefix="snapshot", initializer=in_thread)
        self._stream: torch.cuda.Stream | None = None
        self._copied_by_gpu: torch.cuda.Event | None = None
        self._gpu_waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []  # begin and end of each

    def pin(self, state: Any) -> None:
        """Makes memory for the copies of what a state has on the GPU. In the background, after a restore."""
        tensors = [leaf for _, leaf in leaves(state) if isinstance(leaf, Tensor) and leaf.is_cuda]
        self._pinned.reserve([own_part(leaf) for leaf in tensors])

    def take(self, state: Any, owned: Owned = MappingProxyType({})) -> Any:
        """`state` with each tensor replaced by its copy; valid from `complete` to the next call.

        Args:
            state: dicts, lists and tuples of tensors and of plain values.
            owned: the tensors that nothing but the optimizer's step changes, or nothing at all.

        Raises:
            IscError: something in it could be saved, but not loaded with `weights_only=True`.
        """
        self.pin(state)
        copy, pairs = self._plan(state)
        may_defer = self._may_defer and not self.is_at_once
        at_once, frozen, watched, self._counting = Pairs(), Pairs(), Pairs(), []
        for pair in pairs:
            counting = owned.get(pair[1].data_ptr())
            if counting:
                watched.append(pair)
                self._counting += counting
            elif counting is None or not may_defer:
                at_once.append(pair)
            else:
                frozen.append(pair)
        self._deferred = watched if may_defer else []
        at_once += self._unchanged.to_copy(frozen) + (watched if not may_defer else [])
        self._watch([tensor for _, tensor in watched if not tensor.is_cuda])
        self._copied.clear()
        if any(tensor.is_cuda for _, tensor in pairs):
            self._start_gpu(at_once)
        _copy([pair for pair in at_once if not pair[1].is_cuda])
        if not self._deferred:  # a step need not wait for the background, which may be stuck in another save
            self._copied.set()
        return copy

    def _watch(self, tensors: list[Tensor]) -> None:
        """Notes what tells whether something else than a step changes what was saved."""
        self._versions = [tensor._version for tensor in self._counting]
        self._samples = samples_of(tensors)
        self._is_torn, self._is_whole, self._has_changed = None, False, False

    def _start_gpu(self, at_once: Pairs) -> None:
        """Queues the copies of what is on the GPU. What it computes next waits for those `at_once`."""
        training = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            _queue_copies(at_once, self._stream)
            self._unchanged.fingerprint_copied()
            self._let_gpu_wait(training, self._stream.record_event())
            _queue_copies(self._deferred, self._stream)
            self._copied_by_gpu = self._stream.record_event()

    def _let_gpu_wait(self, training: torch.cuda.Stream, copied: torch.cuda.Event) -> None:
        """What the GPU computes next waits for a copy; the time is taken there, for the CPU runs on."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record(training)
        training.wait_event(copied)
        end.record(training)
        self._gpu_waits.append((begin, end))

    def gpu_waited(self) -> float:
        """Seconds for which the GPU has waited since the last call, of those waits that have ended."""
        ended = [pair for pair in self._gpu_waits if pair[1].query()]  # type: ignore[no-untyped-call]
        self._gpu_waits = [pair for pair in self._gpu_waits if pair not in ended]
        milliseconds: float = sum(begin.elapsed_time(end) for begin, end in ended)
        return milliseconds / 1000

    def complete(self) -> None:
        """Copies what was put off. In the background."""
        try:
            pairs = [pair for pair in self._deferred if not pair[1].is_cuda]
            sizes = list(itertools.accumulate(buffer.nbytes for buffer, _ in pairs))
            half = bisect.bisect(sizes, sizes[-1] / 2) if sizes else 0
            # One thread does not fill the memory's bandwidth, and torch's own do badly in the background.
            list(self._copiers.map(_copy, (pairs[:half], pairs[half:])))  # raises what a copy raised
        finally:
            self._copied.set()
        with torch.cuda.stream(self._stream):  # of None it does nothing
            self._has_changed = not self._unchanged.are_unchanged()  # no step waits for that
        if self._copied_by_gpu is not None:
            self._copied_by_gpu.synchronize()

    def defer_nothing(self) -> None:
        """From now on all is copied before the training goes on: a copy was torn, here or on another rank."""
        self._may_defer = False

    def abandon(self) -> None:
        """Nobody will call `complete`: this snapshot is not saved, and no step need wait for it."""
        self._deferred, self._counting, self._versions, self._samples = [], [], [], []
        self._copied.set()

    def wait_until_copied(self) -> float:
        """Waits until what was put off is copied: it is about to change. The training's, before a step.

        Returns:
            The seconds for which it waited.
        """
        if self._is_torn is not None:
            return 0.0  # it was waited for already
        begun = time.monotonic()
        with self._lock:
            is_changed = self._is_changed()
            self._is_torn = is_changed and bool(self._deferred) and not self._is_whole
            # Counted is also what writes the same values: ranks that share a model anew.
            is_other = differ(self._samples) if self._samples else is_changed
            self.is_left_behind |= is_other and not self._is_torn
        self._copied.wait()
        if self._copied_by_gpu is not None:
            self._let_gpu_wait(torch.cuda.current_stream(), self._copied_by_gpu)
        return time.monotonic() - begun

    def is_torn(self) -> bool:
        """Whether something else than a step has changed what was put off, perhaps while it was copied.

        If so, nothing will be put off any more.
        """
        with self._lock:
            is_torn = self._is_torn
            if is_torn is None:
                is_torn = bool(self._deferred) and self._is_changed()
            is_torn |= self._has_changed
            self._is_whole = not is_torn
        self._may_defer &= not is_torn
        return is_torn

    def _is_changed(self) -> bool:
        """Torch counts the changes of each tensor, because autograd needs to know of them. It does not count
        those that are made through `.data`: samples of the values show these."""
        versions = [tensor._version for tensor in self._counting]
        return versions != self._versions or differ(self._samples)

    def _plan(self, state: Any) -> tuple[Any, Pairs]:
        """The copy of a state, its tensors not filled yet, and with what they are to be filled."""
        pairs: Pairs = []
        known: dict[tuple[object, ...], Tensor] = {}  # what a part holds twice, it holds twice after a resume

        def replace(path: Path, node: Any) -> Any:
            check_loadable(path, node)
            if isinstance(node, Tensor):
                place = (path[:1], *_place(node))
                if place not in known:
                    known[place] = self._buffer(node, path)
                    pairs.append((known[place], node.detach()))
                return known[place]
            if isinstance(node, dict) and type(node) is not dict:  # a plain one is read by everybody
                return mapped(dict(node), replace, path)
            return node.item() if isinstance(node, np.generic) else node

        return mapped(state, replace), pairs

    def _buffer(self, tensor: Tensor, path: tuple[object, ...]) -> Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = self._pinned.like(tensor) if tensor.is_cuda else None
            if buffer is None:
                # pinned: a GPU copies into it at full speed, without a detour through the driver's own buffer
                is_pinned = tensor.is_cuda and self._pinned.is_pinned
                buffer = torch.empty_like(tensor, device="cpu", pin_memory=is_pinned)
            self._buffers[path] = buffer
            self._unchanged.forget(buffer)
        return buffer


def _place(tensor: Tensor) -> tuple[object, ...]:
    """What only a tensor with the very same values has in common with it: where they are, and how."""
    if is_sharded(tensor) or not tensor.numel():
        return (id(tensor),)
    bits = tensor.is_conj(), tensor.is_neg()
    return tensor.data_ptr(), tensor.device, tensor.shape, tensor.stride(), tensor.dtype, bits


def _queue_copies(pairs: Pairs, stream: torch.cuda.Stream) -> None:
    for buffer, tensor in pairs:
        if tensor.is_cuda:
            buffer.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)


def _copy(pairs: Pairs) -> None:
    for buffer, tensor in pairs:
        buffer.copy_(tensor)


@torch.no_grad()  # or `to_local` would return a view, and be part of a graph
def deferrable(optimizers: list[torch.optim.Optimizer], parts: Iterable[Any]) -> Owned:
    """The tensors that nothing but a step of one of these optimizers changes, or nothing at all, by address.

    Of a sharded tensor both the whole and this rank's part: a change is counted in that which was changed,
    and never in what a `state_dict` returns of it.

    Args:
        optimizers: which wait for copies before they change anything.
        parts: among which there may be modules with frozen weights.
    """
    groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
    # Frozen ones in it it does not step: they have no gradient.
    owned = [[one for one in group if one.requires_grad or one.grad is not None] for group in groups]
    # Some count their own steps beside the states of the parameters.
    entries = [entry for optimizer in optimizers for entry in optimizer.state.values()]
    states = [entry.values() if isinstance(entry, Mapping) else (entry,) for entry in entries]
    weights = [weight for part in parts if isinstance(part, nn.Module) for weight in part.parameters()]
    found: dict[int, list[Tensor]] = {_address(one): [] for one in weights if not one.requires_grad}
    for tensor in (tensor for part in (*owned, *states) for tensor in part if isinstance(tensor, Tensor)):
        found.setdefault(_address(tensor), []).extend((tensor, own_part(tensor)))
    found.pop(0, None)
    return found


def _address(tensor: Tensor) -> int:
    """Of this rank's part; 0 if that is empty, or has no memory of its own, as what is sparse."""
    try:
        return own_part(tensor).data_ptr()
    except RuntimeError:
        return 0
