"""What an object of the user's holds, and what that holds: plain values and random number generators."""

from __future__ import annotations

import gc
import random
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

PLAIN = (bool, int, float, complex, str, bytes, np.generic)
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
MOST_ITEMS, MOST_OBJECTS = 20, 200  # of a container, for what holds more are data; looked into
NEITHER = (torch.Tensor, np.ndarray, type, ModuleType)
CONTAINERS, CALLED = dict | list | tuple, MethodType | partial | FunctionType
DATA = (torch.Tensor, np.ndarray, dict, list, tuple, set)
OF_MODULES = frozenset(vars(nn.Module()))  # what each of torch's modules has
WRAPPERS = ("torch.utils.data.", "torch.nn.modules.container")
OTHERS = ("isc_runtime", "torch", "numpy", "pandas", "pyarrow")


def values_inside(value: Any, name: str, known: set[int] | None = None) -> Iterator[tuple[str, Any, Any]]:
    """The plain values and the generators in an object, in what it wraps and in short containers.

    Args:
        value: a dataset, say, or one that wraps another.
        name: of it.
        known: the ids of objects that are not looked into, those that are join them.

    Yields:
        The name of a value, the value, and what holds it.
    """
    known = set() if known is None else known
    for parts, holder in _holders(value, name, known):
        for own, part in parts:
            if isinstance(part, PLAIN):
                yield own, part, holder
            elif isinstance(part, GENERATORS) and id(part) not in known:
                known.add(id(part))
                yield own, part, holder


def generators_inside(value: Any) -> dict[str, Any]:
    """The random number generators in an object, each once, by name."""
    return {name: part for name, part, _ in values_inside(value, "") if isinstance(part, GENERATORS)}


def data_inside(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors, arrays and containers in an object, whatever their length, by name."""
    for parts, _ in _holders(value, name, set()):
        yield from ((own, part) for own, part in parts if isinstance(part, DATA))


def objects_inside(value: Any) -> list[Any]:
    """An object and those that it holds which may change when they are used: no lists, nothing of torch's."""
    found = [holder for _, holder in _holders(value, "", set())]
    return [one for one in found if not isinstance(one, CONTAINERS | CALLED) and not _is_of_others(one)]


def _holders(value: Any, name: str, known: set[int]) -> Iterator[tuple[list[tuple[str, Any]], Any]]:
    """An object and those that it holds, the nearest ones first, each after its parts by name."""
    known.add(id(value))
    to_do, count = deque([(name, value)]), 1
    while to_do and count <= MOST_OBJECTS:
        name, holder = to_do.popleft()
        parts = _parts(name, holder)
        yield parts, holder
        for own, part in parts:
            if not isinstance(part, PLAIN) and id(part) not in known and _may_hold(part):
                known.add(id(part))
                count += 1
                to_do.append((own, part))


def _parts(name: str, holder: Any) -> list[tuple[str, Any]]:
    if isinstance(holder, CONTAINERS) and len(holder) > MOST_ITEMS:
        return []
    if isinstance(holder, dict):
        return [(f"{name}[{key!r}]", part) for key, part in holder.items() if isinstance(key, PLAIN)]
    if isinstance(holder, list | tuple):
        names = getattr(holder, "_fields", None)
        keys = [f".{each}" for each in names] if names else [f"[{index}]" for index in range(len(holder))]
        return [(name + key, part) for key, part in zip(keys, holder, strict=True)]
    if isinstance(holder, MethodType):
        return [(name, holder.__self__)]
    if isinstance(holder, partial):
        return [(name, holder.func), *_parts(name, holder.args), *_parts(name, holder.keywords)]
    if isinstance(holder, FunctionType):
        return _parts_of_function(name, holder)
    attributes = vars(holder) if _has_attributes(holder) else {}
    if isinstance(holder, nn.Module):
        own = {attribute: part for attribute, part in attributes.items() if attribute not in OF_MODULES}
        attributes = own | attributes.get("_modules", {})
    return [(f"{name}.{attribute}", part) for attribute, part in attributes.items()]


def _parts_of_function(name: str, function: FunctionType) -> list[tuple[str, Any]]:
    """What it has found where it was made, and its defaults."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = [(f"{name}.{variable}", next(iter(gc.get_referents(cell)), None)) for variable, cell in cells]
    return found + _parts(name, function.__defaults__ or ()) + _parts(name, function.__kwdefaults__ or {})


def _has_attributes(value: Any) -> bool:
    # Not `hasattr(value, ...)`: it may be a __getattr__ of the user's that answers.
    return isinstance(getattr(value, "__dict__", None), dict)


def _is_of_others(value: Any) -> bool:
    package = type(value).__module__.partition(".")[0]
    return package in OTHERS or package in sys.stdlib_module_names


def _may_hold(value: Any) -> bool:
    if isinstance(value, CONTAINERS):
        return len(value) <= MOST_ITEMS
    if isinstance(value, CALLED):
        return True
    is_wrapper = type(value).__module__.startswith(WRAPPERS)
    return (
        (is_wrapper or not _is_of_others(value)) and not isinstance(value, NEITHER) and _has_attributes(value)
    )
