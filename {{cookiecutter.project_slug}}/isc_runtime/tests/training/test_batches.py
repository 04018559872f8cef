"""A batch is an opaque tree: it is moved, split and cut whatever it is."""

from __future__ import annotations

import copy
import enum
from collections import UserDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.parallel import part_of_batch
from isc_runtime.ranks.shards import is_sharded
from isc_runtime.tests.ranks.test_sharding import run
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
    "of NumPy": {"x": X, "ids": np.arange(7), "names": np.array(list("abcdefg")), "scale": np.float32(0.5)},
    "arrays alone": (np.arange(14).reshape(7, 2), np.arange(7)),
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
        elif isinstance(leaf, np.ndarray):
            assert np.concatenate(of_parts).tolist() == leaf.tolist()
        else:
            assert all(other is leaf for other in of_parts)


def test_plain_values_of_each_sample_are_split_with_it() -> None:
    """As torch's own collate makes them of text; a list of another length goes with each part."""
    batch = {"x": X, "names": list("abcdefg"), "classes": ["cat", "dog"]}
    parts = [part for part, _ in parts_of(batch, 2)]
    assert [part["names"] for part in parts] == [list("abcd"), list("efg")]
    assert all(part["classes"] == ["cat", "dog"] for part in parts)


IMAGES = [torch.zeros(3, 8 + side, 8) for side in range(7)]
TARGETS = [{"boxes": torch.zeros(count, 4), "labels": torch.zeros(count)} for count in range(7)]
OF_SAMPLES: dict[str, tuple[Any, str]] = {
    "images of unequal size, and labels": ((IMAGES, Y), "the batch itself"),
    "the same by name": ({"images": IMAGES, "labels": Y}, "images"),
    "labels first": ({"labels": Y, "images": tuple(IMAGES)}, "images"),
    "texts of unequal length": ([torch.zeros(length) for length in range(1, 8)], "the batch itself"),
    "descriptions": ({"x": X, "targets": TARGETS}, "targets"),
    "descriptions in a dataclass": (Views(X, TARGETS), "others"),  # type: ignore[arg-type]
    "what belongs to all in a tuple": ((X, Y, torch.ones(10)), "the batch itself"),
}


@pytest.mark.parametrize("kind", OF_SAMPLES)
def test_a_list_that_nobody_knows_how_to_cut_is_refused(kind: str) -> None:
    """It was cut wrongly, or went whole with each part. In one part it is trained on as it is."""
    batch, where = OF_SAMPLES[kind]
    with pytest.raises(IscError, match=f"--accumulate, at {where}. Leave --accumulate at 1") as raised:
        list(parts_of(batch, 2))
    assert raised.value.exit_code is ExitCode.DATA
    assert list(parts_of(batch, 1)) == [(batch, True)]


def test_what_belongs_to_all_samples_goes_with_each_part_of_a_dict() -> None:
    batch = {"x": X, "class_weights": torch.ones(10)}
    assert all(part["class_weights"] is batch["class_weights"] for part, _ in parts_of(batch, 3))


def test_a_batch_without_samples_has_one_part() -> None:
    empty = torch.zeros(0, 3)
    assert list(parts_of(empty, 2)) == [(empty, True)]


def test_everything_goes_to_the_device() -> None:
    moved = to_device(BATCHES["nested"], torch.device("meta"))
    assert all(leaf.is_meta for _, leaf in leaves(moved) if isinstance(leaf, Tensor))
    assert moved["none"] is None


@pytest.mark.parametrize("batch", [{}, [], "text", {"scalar": torch.tensor(1.0)}])
def test_a_batch_without_samples_is_said(batch: Any) -> None:
    with pytest.raises(IscError, match="no tensor with a dimension for the samples") as raised:
        size_of_batch(batch)
    assert raised.value.exit_code is ExitCode.DATA


def test_what_can_move_moves_itself() -> None:
    """The lengths of a PackedSequence must stay on the CPU; a graph of another library is no tree."""

    class Graph:
        def to(self, device: torch.device) -> str:
            return f"on {device}"

    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device({"texts": packed, "graph": Graph(), "kind": Graph}, torch.device("meta"))
    assert (moved["texts"].data.is_meta, moved["texts"].batch_sizes.is_cpu) == (True, True)
    assert (moved["graph"], moved["kind"]) == ("on meta", Graph)


@dataclass(frozen=True)
class Checked:
    """A batch that computes something when it is made."""

    values: torch.Tensor
    total: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", self.values.sum())


@dataclass
class Detections:
    """With all that is in batches besides tensors, and a field that nobody has set yet."""

    images: list[Tensor]
    targets: list[dict[str, Any]]
    file_names: tuple[str, ...]
    kind: Kind
    where: Path
    boxes: Tensor | None = None
    cache: Any = field(init=False, repr=False)


class Kind(enum.Enum):
    DAY = 1


def test_what_is_no_tensor_stays_as_it_is() -> None:
    targets = [{"boxes": torch.zeros(count, 4), "name": f"{count}", "mask": None} for count in range(3)]
    names = ("a", "b", "c")
    batch = Detections([torch.zeros(3, 4 + side) for side in range(3)], targets, names, Kind.DAY, Path("x"))
    moved = to_device(batch, torch.device("meta"))
    assert all(image.is_meta for image in moved.images)
    assert [(one["boxes"].is_meta, one["name"], one["mask"]) for one in moved.targets] == [
        (True, name, None) for name in "012"
    ]
    assert (moved.file_names, moved.kind, moved.where, moved.boxes) == (names, Kind.DAY, Path("x"), None)
    assert not hasattr(moved, "cache")
    assert list(parts_of(batch, 1)) == [(batch, True)]


def test_a_dataclass_is_not_made_anew() -> None:
    moved = to_device(Checked(torch.ones(3)), torch.device("meta"))
    assert moved.values.is_meta
    assert moved.total.is_meta
    (first, _), _ = parts_of(Checked(torch.arange(4)), 2)
    assert (first.values.tolist(), first.total.item()) == ([0, 1], 6)


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, inputs: Tensor) -> Tensor:
        sums: Tensor = self.blocks[0](inputs).sum()
        return sums


def test_ranks_that_hold_one_model_call_it_equally_often(tmp_path: Path) -> None:
    """However many samples each of them has; all of them count, once."""

    def work(group: Group) -> None:
        assert [is_last for _, is_last in parts_of(X[:3], 2)] == [False, True]  # nobody is asked yet
        torch.manual_seed(0)
        whole, options = Summing(), ParallelOptions("fsdp")
        model = build(lambda: copy.deepcopy(whole), group, options)
        for sizes, number in [((4, 4), 4), ((7, 3), 3), ((0, 5), 3), ((1, 7), 1), ((6, 5), 3), ((7, 5), 4)]:
            own = X[: sizes[group.rank]]
            parts = list(parts_of({"x": own, "factor": 1.0}, 4))
            assert len(parts) == number
            assert torch.equal(torch.cat([part["x"] for part, _ in parts]), own)
            assert [is_last for _, is_last in parts] == [False] * (number - 1) + [True]
            model.zero_grad()
            whole.zero_grad()
            for part, is_last in parts:
                with part_of_batch(model, is_last):
                    loss = model(part["x"])
                torch.autograd.backward(loss)
            torch.autograd.backward(whole(torch.cat([X[:size] for size in sizes])) / 2)
            for value, other in zip(model.parameters(), whole.parameters(), strict=True):
                assert is_sharded(value.grad)
                torch.testing.assert_close(value.grad.full_tensor(), other.grad)

    said = run(tmp_path, work)[0]
    assert said.count("fewer samples than --accumulate 4 makes parts") == 1
