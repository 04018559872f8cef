"""What a training changes and does not save is known by its changing: a count, a generator, a history."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isc_runtime.checkpointing.held import attribute_of, has_method
from isc_runtime.ranks.buffers import is_plain
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import is_sharded
from isc_runtime.ranks.weights import unlike_weights
from isc_runtime.tree import leaves, nodes

PLAIN = (bool, int, float, complex, str, bytes, np.generic)
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
CONTAINERS = (list, tuple, deque, dict)
RUNTIME = ("isc_runtime", "torch", "numpy")
MOST_VALUES, MOST_ITEMS, DEEPEST = 2**16, 100, 3  # of a tensor, of a container, in one another
OTHER = "not looked at"
OF_TORCH = frozenset(vars(nn.Module())) | {"_non_persistent_buffers_set"}  # what each module has

Marks = dict[str, Any]

logger = logging.getLogger("checkpoint")


class Unsaved:
    """Names what has changed since the start, and is in no checkpoint: a resume would begin with a new one.

    Looked at is what the training itself holds, its modules and its datasets: plain values, tensors,
    containers of them, and random number generators. A tensor that is made once, and a dict that only grows,
    are taken for a cache. What worker processes change in their copies of a dataset is not seen.

    And weights that are not the first rank's, which are saved.

    Args:
        training: as it is before the first batch.
        group: the ranks.
    """

    def __init__(self, training: Any, group: Group) -> None:
        self._training = training
        self._group = group
        self._kind = type(training).__name__
        self._named: set[str] = set()
        self._saves = 0
        self._is_apart = False
        self._in_dicts = _containers(training.state())  # a resume fills these
        self._marks = self._look(frozenset())

    def saved(self, state: Any) -> None:
        """To be called at each save, with what is saved: looks at the 1st, 2nd, 4th, ... A collective."""
        self._saves += 1
        if self._saves & (self._saves - 1):
            return
        for name in self.changed(state):
            logger.warning(
                "[STATE] %s changes in training and is not saved: a resume would begin with a new one. %s; "
                "or add %r to %s.left_out if it comes out the same, as a cache does.",
                *(name, _advice(name, self._kind), name.removeprefix(f"{self._kind}."), self._kind),
            )
        self._compare_weights()

    def _compare_weights(self) -> None:
        """Warns once if the ranks have come apart. A collective."""
        parts = self._training.state()
        modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        found = None if self._is_apart else unlike_weights(modules, self._group)
        if found is not None:
            self._is_apart = True
            logger.warning(
                "[STATE] The weights of the ranks have come apart: %s of rank %d is not that of rank 0. Only "
                "rank 0's are saved, and a resume would give them to all. Gradients are the same on all "
                "ranks after the whole backward pass, not in its hooks; what a forward pass writes belongs "
                "into a buffer, and not into a parameter, be it frozen.",
                *reversed(found),
            )

    def changed(self, state: Any) -> list[str]:
        """The names of what has changed since the start, those that were not named yet."""
        own = frozenset(_place(leaf) for _, leaf in leaves(state) if _is_readable(leaf))
        marks, found = self._look(own), []
        declared = [f"{self._kind}.{name}" for name in getattr(self._training, "left_out", ())]
        declared += getattr(self._training, "left_out", ())
        for name, mark in marks.items():
            before = self._marks.setdefault(name, mark)
            if _is_first(before, mark):
                self._marks[name] = mark
            elif _differs(before, mark) and name not in self._named:
                self._named.add(name)
                if not any(f"{name}.".startswith(f"{one}.") for one in declared):
                    found.append(name)
        return found

    def _look(self, own: frozenset[int]) -> Marks:
        """The marks of all that is looked at.

        Args:
            own: where the tensors are that are saved.
        """
        marks: Marks = {}
        with contextlib.suppress(Exception):  # of an attribute of the user's; the rest is not looked at
            for name, value in _values(self._training, self._kind, self._in_dicts):
                marks[name] = OTHER
                with contextlib.suppress(Exception):
                    marks[name] = _mark(value, own)
        return marks


def _advice(name: str, kind: str) -> str:
    if name.startswith(f"{kind}.data."):
        return "Draw from torch's, NumPy's or Python's own generators, or give the dataset a state_dict"
    if name.startswith(f"{kind}."):
        return "Keep it in a dict that state() returns, such as metrics, a generator by its state"
    return "Keep it in a persistent buffer, or tell it with get_extra_state, a generator by its state"


def _containers(parts: Mapping[str, Any]) -> dict[int, Any]:
    """The lists and dicts that parts hold which are dicts, by their identity."""
    found = (node for part in parts.values() if isinstance(part, dict) for _, node in nodes(part))
    return {id(node): node for node in found if isinstance(node, list | dict)}


def _values(training: Any, kind: str, in_dicts: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    """What may change, by name; not what was in a dict at the start, and still is."""
    parts: Mapping[str, Any] = training.state()
    known = {id(part) for part in parts.values()} | (in_dicts.keys() & _containers(parts).keys())
    for part, value in parts.items():
        if isinstance(value, nn.Module):
            for name, module in value.named_modules():
                known.add(id(module))
                yield from _values_of_module(f"{part}.{name}" if name else part, module)
    for name, value in vars(training).items():
        if id(value) not in known:
            yield from _values_of_object(f"{kind}.{name}", value, known, DEEPEST)


def _values_of_module(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    for buffer in module._non_persistent_buffers_set:
        yield f"{name}.{buffer}", module._buffers.get(buffer)
    if type(module).get_extra_state is not nn.Module.get_extra_state or not _is_users(module):
        return
    for attribute, value in vars(module).items():
        if attribute not in OF_TORCH and not attribute.startswith("_ddp"):
            yield f"{name}.{attribute}", value


def _values_of_object(name: str, value: Any, known: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """A value, or those that an object of the user's holds; of a dataset numbers and generators only, for it
    may well keep what it has read."""
    if isinstance(value, (*PLAIN, *GENERATORS, Tensor, np.ndarray, type(None))) or type(value) in CONTAINERS:
        yield name, value
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field, part in zip(value._fields, value, strict=True):
            yield from _values_of_object(f"{name}.{field}", part, known, depth - 1)
    elif depth and id(value) not in known and _is_users(value) and not has_method(value, "state_dict"):
        known.add(id(value))
        is_dataset = hasattr(type(value), "__getitem__") or hasattr(type(value), "__iter__")
        for attribute, part in (attribute_of(value, "__dict__") or {}).items():
            if not (is_dataset and isinstance(part, (*CONTAINERS, Tensor, np.ndarray))):
                yield from _values_of_object(f"{name}.{attribute}", part, known, depth - 1)


def _is_users(value: Any) -> bool:
    """Whether an object is of a class of the project, and not of a package."""
    if isinstance(value, type):
        return False
    module = type(value).__module__
    package = module.partition(".")[0]
    if package in RUNTIME or package in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _mark(value: Any, own: frozenset[int], depth: int = DEEPEST) -> Any:
    """What tells whether a value has changed."""
    if value is None or isinstance(value, PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, GENERATORS):
        return "generator", _digest(_state_of(value))
    if isinstance(value, np.ndarray):
        return "tensor", value.shape, _digest(_beginning_of(value).tobytes())
    if isinstance(value, Tensor):
        if not _is_readable(value) or _place(value) in own:
            return OTHER
        values = _beginning_of(value.detach()).reshape(-1).cpu().contiguous()
        return "tensor", tuple(value.shape), _digest(values.view(torch.uint8).numpy().tobytes())
    if type(value) not in CONTAINERS or not depth:
        return OTHER
    if isinstance(value, dict):
        items = list(value.items())[:MOST_ITEMS]
        return {repr(key): _mark(part, own, depth - 1) for key, part in items if isinstance(key, PLAIN)}
    last = [value[index] for index in range(max(0, len(value) - MOST_ITEMS), len(value))]
    return ["length", len(value), *(_mark(part, own, depth - 1) for part in last)]


def _beginning_of(values: Any) -> Any:
    """At most MOST_VALUES of a tensor or an array, as a view: what is not contiguous may be large."""
    while (count := math.prod(values.shape)) > MOST_VALUES:
        values = values[: max(1, len(values) * MOST_VALUES // count)] if len(values) > 1 else values[0]
    return values


def _is_readable(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and is_plain(value)
        and not (value.is_meta or is_sharded(value))
    )


def _place(tensor: Tensor) -> int:
    """Where its memory begins: a view of a saved tensor is saved with it."""
    return tensor.untyped_storage().data_ptr()


def _state_of(generator: Any) -> bytes:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state).encode()
    if isinstance(generator, np.random.RandomState):
        state: Any = generator.get_state()
        return bytes(state[1].tobytes()) + repr(state[2:]).encode()
    return repr(generator.getstate()).encode()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _is_first(before: Any, now: Any) -> bool:
    """Whether a tensor is where nothing was, as that of a mask is after the first batch."""
    return before == ("NoneType", "None") and isinstance(now, tuple) and now[0] == "tensor"


def _differs(before: Any, now: Any) -> bool:
    """Whether two marks are of unlike values; what is not looked at is like anything."""
    if OTHER in (before, now):
        return False
    if isinstance(before, dict) and isinstance(now, dict):  # it may grow
        return any(name not in now or _differs(mark, now[name]) for name, mark in before.items())
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return any(map(_differs, before, now))
    return bool(before != now)
