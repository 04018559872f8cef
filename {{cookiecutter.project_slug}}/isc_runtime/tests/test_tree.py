"""Walks over a state: every node once, each before its parts, and its leaves."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from isc_runtime.tree import leaves, mapped, name_of, nodes


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Batch:
    inputs: Any


TREE: dict[str, Any] = {"a": [1, (2, Pair(3, 4))], "b": OrderedDict(c=Batch(torch.ones(2))), "d": {}}


def test_all_nodes_from_the_top() -> None:
    found = [name_of(path) for path, _ in nodes(TREE, ("state",))]
    inside = ["a", "a.0", "a.1", "a.1.0", "a.1.1", "a.1.1.0", "a.1.1.1", "b", "b.c", "b.c.inputs", "d"]
    assert found == ["state", *(f"state.{name}" for name in inside)]
    assert dict(nodes(TREE))["a", 1] is TREE["a"][1]


def test_the_leaves_are_the_nodes_without_parts() -> None:
    assert [name_of(path) for path, _ in leaves(TREE)] == ["a.0", "a.1.0", "a.1.1.0", "a.1.1.1", "b.c.inputs"]
    assert list(leaves(5, ("alone",))) == [(("alone",), 5)]


def test_what_is_mapped_keeps_its_forms_and_the_original() -> None:
    doubled = mapped(TREE, lambda path, node: 2 * node if isinstance(node, int) else node)
    assert doubled["a"] == [2, (4, Pair(6, 8))]
    assert type(doubled["a"][1][1]) is Pair
    assert type(doubled["b"]) is OrderedDict
    assert type(doubled["b"]["c"]) is Batch
    assert TREE["a"] == [1, (2, Pair(3, 4))]
