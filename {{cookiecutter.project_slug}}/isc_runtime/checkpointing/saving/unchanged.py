"""Frozen weights are copied once; from then on they are compared with their copy.

To compare can wait, for whatever equals the copy of the last save is what it was when this one began: the
training goes on meanwhile. All bytes are compared. Some weights that nobody trains do change, as a teacher's
that follows its student: torch does not count what is written through `.data`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isc_runtime.ranks.weights import INTEGERS

Pairs = list[tuple[Tensor, Tensor]]  # of a buffer, and the tensor that it is to hold
SMALL = 2**16  # bytes; what is smaller is copied at once


@dataclass
class _Source:
    """What a buffer was filled with.

    Attributes:
        form: its address, and how often torch has seen it change.
        is_proven: whether it was found unchanged by a later save.
        changes: whether it was found changed, though torch had not seen that.
    """

    form: tuple[int, int]
    is_proven: bool = False
    changes: bool = False


class Unchanged:
    """Knows which weights were the same in the last saves, and finds out whether they still are."""

    def __init__(self) -> None:
        self._sources: dict[int, _Source] = {}  # by the address of the buffer
        self._to_compare: Pairs = []

    def forget(self, buffer: Tensor) -> None:
        """Its memory is new."""
        self._sources.pop(buffer.data_ptr(), None)

    def to_copy(self, pairs: Pairs) -> Pairs:
        """Those that are to be copied now. The others are to be compared, by `are_unchanged`.

        Args:
            pairs: each buffer holds what the last save put into it, if it held one before.
        """
        self._to_compare = []
        return [pair for pair in pairs if not self._is_to_compare(*pair)]

    def _is_to_compare(self, buffer: Tensor, tensor: Tensor) -> bool:
        if not _is_comparable(buffer, tensor) or tensor.nbytes < SMALL:
            return False
        form = tensor.data_ptr(), tensor._version
        source = self._sources.get(buffer.data_ptr())
        if source is None or source.form != form:
            self._sources[buffer.data_ptr()] = _Source(form)
            return False
        if source.is_proven:
            self._to_compare.append((buffer, tensor))
        elif not source.changes:  # once, while the training waits: an average of weights is found here
            source.is_proven = _is_equal(buffer, tensor)
            source.changes = not source.is_proven
        return source.is_proven

    def are_unchanged(self) -> bool:
        """Whether all that is to be compared equals its copy. In the background."""
        changed = [buffer for buffer, tensor in self._to_compare if not _is_equal(buffer, tensor)]
        for buffer in changed:
            self.forget(buffer)
        return not changed


def _is_comparable(buffer: Tensor, tensor: Tensor) -> bool:
    """Whether both are nothing but their bytes, one after the other."""
    if type(tensor) is not Tensor or tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        return False
    is_more = tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return not is_more and not tensor.is_inference() and tensor.is_contiguous() and buffer.is_contiguous()


def _is_equal(buffer: Tensor, tensor: Tensor) -> bool:
    """Bit by bit: two zeros may differ, and a NaN equals itself."""
    place = tensor.storage_offset() * tensor.itemsize
    word = INTEGERS[math.gcd(8, tensor.nbytes, place)]
    return torch.equal(buffer.view(-1).view(word), tensor.view(-1).view(word))
