"""Frozen weights are copied once; from then on they are compared with their copy, or with its fingerprint.

To compare can wait, for whatever equals the copy of the last save is what it was when this one began: the
training goes on meanwhile. All bytes count. Some weights that nobody trains do change, as a teacher's
that follows its student: torch does not count what is written through `.data`.

The copy of what is on a GPU is in host memory, too far away to compare: there two fingerprints are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isc_runtime.checkpointing.saving.fingerprint import fingerprint, words_of

Pairs = list[tuple[Tensor, Tensor]]  # of a buffer, and the tensor that it is to hold
SMALL = 2**16  # bytes; what is smaller is copied at once
SAMPLED_TENSORS, SAMPLED_VALUES = 500, 100  # at most about so many, and of each: some milliseconds in all


@dataclass
class _Source:
    """What a buffer was filled with.

    Attributes:
        form: its address, and how often torch has seen it change.
        is_proven: whether it was found unchanged by a later save.
        changes: whether it was found changed, though torch had not seen that.
        fingerprints: of what it held in the last two saves, if it is told by them.
    """

    form: tuple[int, int]
    is_proven: bool = False
    changes: bool = False
    fingerprints: tuple[Tensor | None, Tensor | None] = (None, None)

    def is_as_before(self) -> bool:
        """Whether the last two fingerprints are there, and the same ones. Waits for them."""
        before, now = self.fingerprints
        return before is not None and now is not None and torch.equal(before, now)


class Unchanged:
    """Knows which weights were the same in the last saves, and finds out whether they still are.

    Args:
        is_far: whether a tensor is told by its fingerprint, for it is far from its copy.
    """

    def __init__(self, is_far: Callable[[Tensor], bool] = lambda tensor: tensor.is_cuda) -> None:
        self._is_far = is_far
        self._sources: dict[int, _Source] = {}  # by the address of the buffer
        self._to_compare: Pairs = []  # with copies of an earlier save
        self._to_prove: list[tuple[_Source, Tensor]] = []  # copied by this one

    def forget(self, buffer: Tensor) -> None:
        """Its memory is new."""
        self._sources.pop(buffer.data_ptr(), None)

    def to_copy(self, pairs: Pairs) -> Pairs:
        """Those that are to be copied now. The others are to be compared, by `are_unchanged`.

        Args:
            pairs: each buffer holds what the last save put into it, if it held one before.
        """
        self._to_compare, self._to_prove = [], []
        return [pair for pair in pairs if not self._is_to_compare(*pair)]

    def _is_to_compare(self, buffer: Tensor, tensor: Tensor) -> bool:
        if not _is_comparable(buffer, tensor) or tensor.nbytes < SMALL:
            return False
        form = tensor.data_ptr(), tensor._version
        source = self._sources.get(buffer.data_ptr())
        is_new = source is None or source.form != form
        if source is None or is_new:
            source = self._sources[buffer.data_ptr()] = _Source(form)
        if source.is_proven:
            self._to_compare.append((buffer, tensor))
        elif source.changes:
            return False
        elif self._is_far(tensor):
            self._to_prove.append((source, tensor))
        elif not is_new:  # once, while the training waits: an average of weights is found here
            source.is_proven = _is_equal(buffer, tensor)
            source.changes = not source.is_proven
        return source.is_proven

    def fingerprint_copied(self) -> None:
        """To be called between the copies and whatever may change something."""
        for source, tensor in self._to_prove:
            _add_fingerprint(source, tensor)

    def are_unchanged(self) -> bool:
        """Whether all that is to be compared equals its copy. In the background."""
        for source, _ in self._to_prove:
            source.is_proven = source.is_as_before()
            source.changes = not source.is_proven and source.fingerprints[0] is not None
        return not [pair for pair in self._to_compare if not self._is_still(*pair)]

    def _is_still(self, buffer: Tensor, tensor: Tensor) -> bool:
        if not self._is_far(tensor):
            is_still = _is_equal(buffer, tensor)
            if not is_still:
                self.forget(buffer)
            return is_still
        source = self._sources[buffer.data_ptr()]
        _add_fingerprint(source, tensor)
        source.is_proven = source.is_as_before()
        source.changes = not source.is_proven
        return source.is_proven


def _add_fingerprint(source: _Source, tensor: Tensor) -> None:
    """Nothing is waited for."""
    try:
        source.fingerprints = source.fingerprints[1], fingerprint(tensor)
    except torch.OutOfMemoryError:  # the training leaves no room for that: it is copied in each save
        source.fingerprints = source.fingerprints[1], None


def _is_comparable(buffer: Tensor, tensor: Tensor) -> bool:
    """Whether both are nothing but their bytes, one after the other."""
    if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.device.type == "mps":
        return False
    is_more = tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return not is_more and not tensor.is_inference() and tensor.is_contiguous() and buffer.is_contiguous()


def _is_equal(buffer: Tensor, tensor: Tensor) -> bool:
    """Bit by bit: two zeros may differ, and a NaN equals itself."""
    return torch.equal(words_of(buffer), words_of(tensor))


def samples_of(tensors: list[Tensor]) -> Pairs:
    """Views of some values of some tensors, and copies of them.

    What changes weights between two steps changes most of them: clipping, averaging, weight decay by hand.
    """
    found = []
    for tensor in tensors[:: max(1, len(tensors) // SAMPLED_TENSORS)]:
        if tensor.is_contiguous() and tensor.numel():
            view = tensor.view(-1)[:: max(1, tensor.numel() // SAMPLED_VALUES)]
            found.append((view, view.clone()))
    return found


def differ(samples: Pairs) -> bool:
    """Whether a value is another one than when the samples were taken."""
    return any(not bool(((now == before) | (now != now)).all()) for now, before in samples)
