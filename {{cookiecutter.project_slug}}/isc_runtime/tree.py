"""States and batches are trees: dicts, lists, tuples, dataclasses, and tensors and plain values as leaves."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Path = tuple[object, ...]  # the keys, indices and names that lead to a node


def children(node: Any) -> list[tuple[Any, Any]] | None:
    """The parts of a node by their keys, indices or names; None of a leaf."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        names = (field.name for field in dataclasses.fields(node))
        return [(name, getattr(node, name)) for name in names if hasattr(node, name)]  # not set yet, perhaps
    return None


def nodes(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All nodes with their paths, each before its parts; the leaves among them."""
    yield path, tree
    for key, part in children(tree) or ():
        yield from nodes(part, (*path, key))


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All leaves with their paths, depth first."""
    parts = children(tree)
    if parts is None:
        yield path, tree
    for key, part in parts or ():
        yield from leaves(part, (*path, key))


def mapped(tree: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """A copy of the tree with `change(path, node)` in place of each node that it changes, from the top.

    What `change` returns as it is, the same object, is looked into.
    """
    changed = change(path, tree)
    if changed is not tree:
        return changed
    found = children(tree)
    if found is None:
        return tree
    parts = {key: mapped(part, change, (*path, key)) for key, part in found}
    if type(tree) is dict:
        return parts
    if isinstance(tree, Mapping):  # whatever it keeps besides its items, as a tokenizer's output does
        copied: Any = copy.copy(tree)
        copied.update(parts)
        return copied
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*parts.values())
    if isinstance(tree, list | tuple):
        return type(tree)(parts.values())
    copied = copy.copy(tree)  # not `replace`: it would call __post_init__ again
    for name, part in parts.items():
        object.__setattr__(copied, name, part)
    return copied


def name_of(path: Path) -> str:
    """A path as people write it: model.blocks.0.weight."""
    return ".".join(map(str, path))
