"""The fingerprint of a tensor is another one for another content, however alike they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from isc_runtime.checkpointing.saving import fingerprint as module
from isc_runtime.checkpointing.saving.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 1000)


def swapped(tensor: Tensor) -> Tensor:
    return tensor[[1, 0, *range(2, len(tensor))]]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "one bit": lambda tensor: tensor.view(torch.int32) ^ (torch.arange(tensor.numel()) == 77).view(64, 64),
    "all signs": lambda tensor: -tensor,
    "two rows change places": swapped,
    "two pieces change places": lambda tensor: tensor.view(-1).roll(2000),
    "reversed": lambda tensor: tensor.flip(0, 1),
    "twice as large": lambda tensor: tensor * 2,
    "two signs": lambda tensor: tensor * torch.where(torch.arange(64) < 2, -1.0, 1.0),
    "a constant instead": lambda tensor: torch.full_like(tensor, 1.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_sees(change: str) -> None:
    tensor = torch.randn(64, 64)
    before = fingerprint(tensor)
    assert torch.equal(before, fingerprint(tensor.clone()))
    assert not torch.equal(before, fingerprint(CHANGES[change](tensor).contiguous()))


@pytest.mark.parametrize("start", range(9))
@pytest.mark.parametrize("count", [1, 7, 8, 4001])
def test_of_bytes_at_any_place(start: int, count: int) -> None:
    memory = torch.randint(0, 255, (start + count,), dtype=torch.uint8)
    before = fingerprint(memory[start:])
    assert torch.equal(before, fingerprint(memory[start:]))
    memory[-1] += 1
    assert not torch.equal(before, fingerprint(memory[start:]))


def test_no_two_of_many_are_alike() -> None:
    single = torch.zeros(5000, dtype=torch.int64)
    seen = {tuple(fingerprint(single).tolist())}
    for at in range(0, 5000, 7):
        single[at] = 1
        seen.add(tuple(fingerprint(single).tolist()))
        single[at] = 0
    assert len(seen) == 1 + len(range(0, 5000, 7))
