"""What an object of the user's holds, and what that holds: plain values and random number generators."""

from __future__ import annotations

import random
import sys
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
NEITHER = (torch.Tensor, np.ndarray, nn.Module, type, ModuleType, FunctionType)
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
    seen, to_do = {id(value)}, [(name, value)]
    while to_do and len(seen) <= MOST_OBJECTS:
        name, holder = to_do.pop()
        for own, part in _parts(name, holder):
            if isinstance(part, PLAIN):
                yield own, part, holder
            elif id(part) in seen or id(part) in known:
                continue
            elif isinstance(part, GENERATORS):
                seen.add(id(part))
                yield own, part, holder
            elif _may_hold(part):
                seen.add(id(part))
                to_do.append((own, part))
    known |= seen


def _parts(name: str, holder: Any) -> list[tuple[str, Any]]:
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
    return [(f"{name}.{attribute}", part) for attribute, part in vars(holder).items()]


def _may_hold(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return len(value) <= MOST_ITEMS
    if isinstance(value, MethodType | partial):
        return True
    module = type(value).__module__
    package = module.partition(".")[0]
    is_of_others = package in OTHERS or package in sys.stdlib_module_names
    is_wrapper = module.startswith("torch.utils.data.")
    return (
        (is_wrapper or not is_of_others)
        and not isinstance(value, NEITHER)
        and hasattr(type(value), "__dict__")
        # Not `hasattr(value, ...)`: it may be a __getattr__ of the user's that answers.
        and isinstance(getattr(value, "__dict__", None), dict)
    )
