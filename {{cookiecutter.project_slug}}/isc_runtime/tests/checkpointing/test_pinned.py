"""Memory that a GPU copies into: as much as the state, each tensor apart, and usual memory as a fallback.

Whether a GPU takes it for pinned only a GPU can say (`tests/cuda` of the template). Here is the rest.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.saving.pinned import ALIGNED, PinnedMemory
from isc_runtime.checkpointing.saving.snapshot import Snapshot

TENSORS = [torch.randn(3, 5), torch.arange(7), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)]


class Registered:
    """What was asked to be pinned."""

    def __init__(self, error: str = "") -> None:
        self.sizes: list[int] = []
        self.error = error

    def __call__(self, address: int, size: int) -> None:
        assert address % 4096 == 0
        self.sizes.append(size)
        if self.error:
            raise RuntimeError(self.error)


def test_it_is_pinned_once_and_no_larger_than_the_state() -> None:
    registered = Registered()
    memory = PinnedMemory(registered)
    for _ in range(2):
        memory.reserve(TENSORS)
    total = sum(tensor.nbytes for tensor in TENSORS)
    assert len(registered.sizes) == 1
    assert total <= registered.sizes[0] < total + ALIGNED * len(TENSORS)


def test_each_copy_has_the_looks_of_its_tensor_and_a_storage_of_its_own(tmp_path: Path) -> None:
    memory = PinnedMemory(Registered())
    memory.reserve(TENSORS)
    copies = []
    for tensor in TENSORS:
        copy = memory.like(tensor)
        assert copy is not None
        assert (copy.shape, copy.dtype, copy.stride()) == (tensor.shape, tensor.dtype, tensor.stride())
        assert copy.untyped_storage().nbytes() == tensor.nbytes  # a file holds no more of it
        copies.append(copy.copy_(tensor))
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, TENSORS, strict=True))
    torch.save(copies, tmp_path / "copies")
    assert all(map(torch.equal, torch.load(tmp_path / "copies", weights_only=True), TENSORS))
    assert memory.like(torch.ones(1)) is None, "there is no more"


def test_what_cannot_be_pinned_is_usual_memory(caplog: pytest.LogCaptureFixture) -> None:
    memory = PinnedMemory(Registered("out of memory"))
    memory.reserve(TENSORS)
    assert not memory.is_pinned
    copy = memory.like(TENSORS[0])
    assert copy is not None
    assert torch.equal(copy.copy_(TENSORS[0]), TENSORS[0])
    assert "[PINNED]" in caplog.text
    assert "could not be pinned (out of memory): saves take longer" in caplog.text


def test_where_there_is_no_gpu_nothing_is_reserved() -> None:
    snapshot = Snapshot()
    snapshot.pin(nn.Linear(2, 2).state_dict())
    assert snapshot._pinned.like(torch.ones(1)) is None
