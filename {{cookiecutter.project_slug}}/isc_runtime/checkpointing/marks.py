"""What tells whether a value has changed, without a copy of it."""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import math
import operator
import random
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import GeneratorType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from isc_runtime.checkpointing.held import attribute_of, has_method
from isc_runtime.inside import GENERATORS, PLAIN, values_inside
from isc_runtime.ranks.buffers import is_plain
from isc_runtime.ranks.shards import as_bytes, is_sharded

CONTAINERS = (list, tuple, deque, dict, set, frozenset, SimpleNamespace)
SIMPLE = (*PLAIN, *GENERATORS, Tensor, np.ndarray, type(None))
RUNTIME = ("isc_runtime", "torch", "numpy")
MOST_VALUES, MOST_ITEMS, MOST_TENSORS = 2**16, 100, 8  # of a tensor, of a container, of a module
DEEPEST, MOST_LOOKED_AT = 3, 10_000  # in one another; objects and containers at a time
OTHER = "not looked at"
GENERATOR, ITERATOR, TENSOR = "generator", "iterator", "tensor"


class Marker:
    """Makes marks of values: what compares alike is taken for the same.

    Args:
        own: where the tensors are that are saved.
        known: objects that are saved, or have a name of their own, by their ids: these are not looked at.
    """

    def __init__(self, own: frozenset[int], known: set[int]) -> None:
        self._own = own
        self._known = known
        self._left = MOST_LOOKED_AT

    def of(self, value: Any, depth: int = DEEPEST, is_within: bool = False) -> Any:
        """The mark of a value.

        Args:
            value: whatever it is.
            depth: so deep its parts are looked at.
            is_within: whether an object of the user's holds it, so that nobody else looks at its state.
        """
        if value is None or isinstance(value, PLAIN):
            return type(value).__name__, repr(value)
        if isinstance(value, GENERATORS):
            return GENERATOR, _digest(_state_of(value))
        if isinstance(value, np.ndarray):
            return TENSOR, value.shape, _digest(_beginning_of(value).tobytes())
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        self._left -= 1
        if not depth or self._left < 0 or id(value) in self._known:
            return OTHER
        if isinstance(value, CONTAINERS):
            return self._of_container(value, depth, is_within)
        if is_iterator(value):
            return self._of_iterator(value, depth)
        if isinstance(value, nn.Module | Optimizer | LRScheduler):
            return self._of_stateful(value, depth) if is_within else OTHER
        if not is_users(value) or has_method(value, "state_dict"):
            return OTHER
        self._known.add(id(value))
        return {name: self.of(part, depth - 1, True) for name, part in attributes(value, self._known)}

    def _of_tensor(self, value: Tensor) -> Any:
        # What the last batch has computed is no state: each batch makes it anew.
        if not is_readable(value) or value.grad_fn is not None or place(value) in self._own:
            return OTHER
        values = as_bytes(_beginning_of(value.detach()).cpu())
        return TENSOR, tuple(value.shape), _digest(values.numpy().tobytes())

    def _of_container(self, value: Any, depth: int, is_within: bool) -> Any:
        if isinstance(value, SimpleNamespace):
            value = vars(value)
        if isinstance(value, set | frozenset):
            return "set", len(value), *sorted(repr(part) for part in itertools.islice(value, MOST_ITEMS))
        if isinstance(value, dict):
            items = itertools.islice(dict.items(value), MOST_ITEMS)
            plain = ((repr(key), part) for key, part in items if isinstance(key, PLAIN))
            return {key: self.of(part, depth - 1, is_within) for key, part in plain}
        last = [value[index] for index in range(max(0, len(value) - MOST_ITEMS), len(value))]
        return ["length", len(value), *(self.of(part, depth - 1, is_within) for part in last)]

    def _of_stateful(self, value: nn.Module | Optimizer | LRScheduler, depth: int) -> Any:
        """Of a model or an optimizer a few tensors tell: in an average of weights all change in each step."""
        if isinstance(value, LRScheduler):
            return self.of(value.last_epoch)
        if isinstance(value, Optimizer):
            states = [state for state in value.state.values() if state]
            return ["length", len(states), *(self.of(state, depth) for state in states[:MOST_TENSORS])]
        tensors = [*value.parameters(), *value.buffers()]
        some = tensors[:: max(1, len(tensors) // MOST_TENSORS)]
        return ["length", len(tensors), *map(self._of_tensor, some)]

    def _of_iterator(self, value: Any, depth: int) -> Any:
        """How far it is, as far as that can be known without taking anything from it."""
        if isinstance(value, itertools.count):
            return ITERATOR, repr(value)
        if isinstance(value, GeneratorType):
            if "isc_runtime" in Path(value.gi_code.co_filename).parts:
                return OTHER  # of a loader of the runtime's: its position says where it is
            if value.gi_frame is None:
                return ITERATOR, "ended"
            local = {name: self.of(part, 1) for name, part in value.gi_frame.f_locals.items()}
            return ITERATOR, value.gi_frame.f_lasti, local
        found: list[Any] = [vars(value)["_num_yielded"]] if "_num_yielded" in _attributes(value) else []
        if not found:  # itertools' and Python's own hold those that they go through
            found.append(operator.length_hint(value, -1))
            held = gc.get_referents(value)
            held += [part for one in held if isinstance(one, tuple) for part in one]
            found += [len(part) for part in held if type(part) is list]
            found += [self._of_iterator(part, depth - 1) for part in held if depth and is_iterator(part)]
        return ITERATOR, *found


def attributes(value: Any, known: set[int]) -> Iterator[tuple[str, Any]]:
    """The attributes of an object of the user's; of a dataset, and in what that wraps, numbers and generators
    only, for it may well keep what it has read.

    Args:
        value: the object.
        known: what is looked at elsewhere, by its ids.
    """
    if not is_dataset(value):
        yield from _attributes(value).items()
        return
    for name, part, holder in values_inside(value, "", known):
        if isinstance(part, GENERATORS) or is_users(holder):
            yield name.removeprefix("."), part


def is_dataset(value: Any) -> bool:
    """Whether it gives samples; what holds a dataset for it, as torch's Subset, does so, too."""
    has = {name for name in ("__getitem__", "__iter__", "__next__") if hasattr(type(value), name)}
    return bool(has) and "__next__" not in has


def is_iterator(value: Any) -> bool:
    """Whether it gives one thing after the other, and is nobody's file or class."""
    is_one = isinstance(value, Iterator) and not isinstance(value, io.IOBase)
    return (is_one and not is_users(value)) or isinstance(value, GeneratorType)


def is_users(value: Any) -> bool:
    """Whether an object is of a class of the project, and not of a package."""
    return not isinstance(value, type) and is_users_class(type(value))


def is_users_class(kind: type) -> bool:
    """Whether a class is of the project, and not of a package."""
    module = kind.__module__
    package = module.partition(".")[0]
    if package in RUNTIME or package in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)


def is_readable(value: Any) -> bool:
    """Whether the values of a tensor can be looked at."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and is_plain(value)
        and not (value.is_meta or is_sharded(value))
    )


def place(tensor: Tensor) -> int:
    """Where its memory begins: a view of a saved tensor is saved with it."""
    return tensor.untyped_storage().data_ptr()


def is_first(before: Any, now: Any) -> bool:
    """Whether something is where nothing was, as a mask and its length after the first batch."""
    return bool(before == ("NoneType", "None") and now != before)


def differs(before: Any, now: Any) -> bool:
    """Whether two marks are of unlike values; what is not looked at is like anything."""
    if OTHER in (before, now) or is_first(before, now):
        return False
    if isinstance(before, dict) and isinstance(now, dict):  # it may grow
        return any(name not in now or differs(mark, now[name]) for name, mark in before.items())
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return any(map(differs, before, now))
    return bool(before != now)


def merged(before: Any, now: Any) -> Any:
    """Of two marks that do not differ one that knows both: what was there first, and what has come since."""
    if before == OTHER or is_first(before, now):
        return now
    if isinstance(before, dict) and isinstance(now, dict):
        return now | {name: merged(mark, now[name]) for name, mark in before.items()}
    if isinstance(before, list) and isinstance(now, list):
        return list(map(merged, before, now))
    return before


def _attributes(value: Any) -> dict[str, Any]:
    found = attribute_of(value, "__dict__")
    return found if isinstance(found, dict) else {}


def _beginning_of(values: Any) -> Any:
    """At most MOST_VALUES of a tensor or an array, as a view: what is not contiguous may be large."""
    while (count := math.prod(values.shape)) > MOST_VALUES:
        values = values[: max(1, len(values) * MOST_VALUES // count)] if len(values) > 1 else values[0]
    return values


def _state_of(generator: Any) -> bytes:
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state).encode()
    if isinstance(generator, np.random.RandomState):
        state: Any = generator.get_state()
        return bytes(state[1].tobytes()) + repr(state[2:]).encode()
    if isinstance(generator, random.SystemRandom):
        return b""  # it has none, and draws other numbers each time
    return repr(generator.getstate()).encode()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
