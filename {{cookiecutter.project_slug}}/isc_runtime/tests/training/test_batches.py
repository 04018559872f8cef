"""A batch is an opaque tree: it is moved, split and cut whatever it is."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.batches import parts_of, size_of_batch, to_device
from isc_runtime.tree import leaves


class Pair(NamedTuple):
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Views:
    one: Tensor
    others: list[Tensor]


X, Y = torch.arange(14.0).reshape(7, 2), torch.arange(7)
BATCHES: dict[str, Any] = {
    "tensor": X,
    "pair": (X, Y),
    "list": [X, Y],
    "named": Pair(X, Y),
    "dict": {"input_ids": X, "labels": Y, "name": "a text", "temperature": torch.tensor(0.5)},
    "like a tokenizer's": UserDict({"input_ids": X, "labels": Y}),
    "dataclass": Views(X, [Y, X + 1]),
    "nested": {"a": [(X, {"b": Y})], "none": None},
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
def test_the_parts_of_a_batch_are_the_batch(kind: str, parts: int) -> None:
    batch = BATCHES[kind]
    split = list(parts_of(batch, parts))
    assert [is_last for _, is_last in split] == [False] * (len(split) - 1) + [True]
    assert len(split) <= parts
    assert all(type(part) is type(batch) for part, _ in split)
    for at, (_, leaf) in enumerate(leaves(batch)):
        of_parts = [list(leaves(part))[at][1] for part, _ in split]
        if isinstance(leaf, Tensor) and leaf.dim():
            assert torch.equal(torch.cat(of_parts), leaf)
        else:
            assert all(other is leaf for other in of_parts)


def test_plain_values_of_each_sample_are_split_with_it() -> None:
    """As torch's own collate makes them of text; a list of another length goes with each part."""
    batch = {"x": X, "names": list("abcdefg"), "classes": ["cat", "dog"]}
    parts = [part for part, _ in parts_of(batch, 2)]
    assert [part["names"] for part in parts] == [list("abcd"), list("efg")]
    assert all(part["classes"] == ["cat", "dog"] for part in parts)


def test_everything_goes_to_the_device() -> None:
    moved = to_device(BATCHES["nested"], torch.device("meta"))
    assert all(leaf.is_meta for _, leaf in leaves(moved) if isinstance(leaf, Tensor))
    assert moved["none"] is None


@pytest.mark.parametrize("batch", [{}, [], "text", {"scalar": torch.tensor(1.0)}])
def test_a_batch_without_samples_is_said(batch: Any) -> None:
    with pytest.raises(IscError, match="no tensor with a dimension for the samples") as raised:
        size_of_batch(batch)
    assert raised.value.exit_code is ExitCode.DATA
