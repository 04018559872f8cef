"""What a training may change and not save: whatever it holds, by name."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from isc_runtime.checkpointing.held import attribute_of, has_method
from isc_runtime.checkpointing.marks import (
    CONTAINERS,
    DEEPEST,
    OTHER,
    SIMPLE,
    Marker,
    attributes,
    is_iterator,
    is_users,
    is_users_class,
)
from isc_runtime.inside import GENERATORS, PLAIN
from isc_runtime.position import Position
from isc_runtime.tree import nodes

OF_TORCH = frozenset(vars(nn.Module())) | {"_non_persistent_buffers_set"}  # what each module has
OF_OPTIMIZERS = frozenset(vars(SGD([torch.zeros(1)]))) | {"_opt_called", "found_inf", "grad_scale", "step"}
OF_OPTIMIZERS |= {"_need_device_dtype_check_for_fused", "_warned_capturable_if_run_uncaptured"}

Marks = dict[str, Any]
Values = Iterator[tuple[str, Any]]


def look(training: Any, kind: str, own: frozenset[int], filled: Mapping[int, Any]) -> Marks:
    """The marks of all that is looked at, by name.

    Args:
        training: what holds it.
        kind: its name, for people.
        own: where the tensors are that are saved.
        filled: the lists and dicts that parts held at the start which are dicts: a resume fills them.
    """
    marks: Marks = {}
    with contextlib.suppress(Exception):  # of an attribute of the user's; the rest is not looked at
        walk = _Walk(training, kind, filled)
        marker = Marker(own, walk.known)
        for name, value in walk.values():
            marks[name] = OTHER
            with contextlib.suppress(Exception):
                marks[name] = marker.of(value, is_within=name.count(".") > 1)
    return marks


def values_of(training: Any, kind: str, filled: Mapping[int, Any]) -> list[tuple[str, Any]]:
    """All that is looked at, by name; as `look`."""
    with contextlib.suppress(Exception):  # of an attribute of the user's
        return list(_Walk(training, kind, filled).values())
    return []


def containers_of(parts: Mapping[str, Any]) -> dict[int, Any]:
    """The lists and dicts that parts hold which are dicts, by their identity."""
    found = (node for part in parts.values() if isinstance(part, dict) for _, node in nodes(part))
    return {id(node): node for node in found if isinstance(node, list | dict)}


class _Walk:
    """Through a training, to each object once.

    Attributes:
        known: the ids of what is saved, of what has a name of its own, and of where the walk was.
    """

    def __init__(self, training: Any, kind: str, filled: Mapping[int, Any]) -> None:
        self._training = training
        self._kind = kind
        self._parts: Mapping[str, Any] = training.state()
        self._saved = {id(part) for part in self._parts.values()}
        self._saved |= filled.keys() & containers_of(self._parts).keys()
        for part in self._parts.values():
            if isinstance(part, nn.Module):
                self._saved |= {id(module) for module in part.modules()}
            elif not isinstance(part, dict) and not _tells_no_attributes(part):
                self._saved |= set(_ids_within(part, DEEPEST))  # its state_dict tells what of that is saved
        held = (value for value in vars(training).values() if not isinstance(value, CONTAINERS))
        self.known = {*self._saved, id(training), *map(id, held)}

    def values(self) -> Values:
        """What may change, by name."""
        for part, value in self._parts.items():
            if isinstance(value, nn.Module):
                for name, module in value.named_modules():
                    yield from self._of_module(f"{part}.{name}" if name else part, module)
            elif isinstance(value, Position):
                yield f"{part}.batch_size", value.batch_size
            elif _tells_no_attributes(value):
                own = {name: held for name, held in vars(value).items() if name not in OF_OPTIMIZERS}
                for name, held in own.items():
                    yield from self._of(f"{part}.{name}", held, DEEPEST - 1)
        for name, value in vars(self._training).items():
            if id(value) not in self._saved and not _is_told_of(value):
                self.known.discard(id(value))
                yield from self._of(f"{self._kind}.{name}", value, DEEPEST)
        yield from _generators_of_project(self._training)

    def _of_module(self, name: str, module: nn.Module) -> Values:
        for buffer in module._non_persistent_buffers_set:
            yield f"{name}.{buffer}", module._buffers.get(buffer)
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            return
        classes = (one for one in type(module).__mro__ if not one.__module__.startswith("torch.distributed."))
        own_class = next(classes)  # what is sharded gets a class in front
        is_torch_s = own_class.__module__.startswith("torch.nn.modules.")
        if not is_torch_s and not is_users_class(own_class):
            return
        for attribute, value in vars(module).items():
            if attribute in OF_TORCH or attribute.startswith("_ddp"):
                continue
            if not is_torch_s:
                yield from self._of(f"{name}.{attribute}", value, DEEPEST - 1)
            elif isinstance(value, PLAIN) and not attribute.startswith("_"):  # a rate that is annealed
                yield f"{name}.{attribute}", value

    def _of(self, name: str, value: Any, depth: int) -> Values:
        """A value, or those that an object of the user's holds."""
        if isinstance(value, SIMPLE):
            yield name, value
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            for field, part in zip(value._fields, value, strict=True):
                yield from self._of(f"{name}.{field}", part, depth - 1)
        elif isinstance(value, CONTAINERS) or is_iterator(value):
            yield name, value
        elif not depth or id(value) in self.known:
            return
        elif isinstance(value, nn.Module | Optimizer | LRScheduler):
            yield name, value
        elif is_users(value) or _is_of_data(value):
            self.known.add(id(value))
            for attribute, part in attributes(value, self.known):
                yield from self._of(f"{name}.{attribute}", part, depth - 1)


def _is_of_data(value: Any) -> bool:
    """Whether it may hold a dataset of the user's, and is not the runtime's."""
    return isinstance(value, Dataset | DataLoader) and not type(value).__module__.startswith("isc_runtime.")


def _is_told_of(value: Any) -> bool:
    """Whether the start names it if it is not saved."""
    return not isinstance(value, (*SIMPLE, *CONTAINERS)) and has_method(value, "state_dict")


def _tells_no_attributes(part: Any) -> bool:
    """Whether it is an optimizer of the user's with torch's state_dict, which holds no attributes."""
    return isinstance(part, Optimizer) and is_users(part) and type(part).state_dict is Optimizer.state_dict


def _ids_within(holder: Any, depth: int) -> Iterator[int]:
    """Of what an object holds, and what that does."""
    if isinstance(holder, dict):
        held = list(holder.values())
    elif isinstance(holder, list | tuple):
        held = list(holder)
    else:
        own = attribute_of(holder, "__dict__")
        held = list(own.values()) if isinstance(own, dict) else []
    for value in held:
        if not isinstance(value, SIMPLE):
            yield id(value)
            if depth and not isinstance(value, nn.Module):
                yield from _ids_within(value, depth - 1)


def _generators_of_project(training: Any) -> Values:
    """The random number generators of train.py, model.py, data.py and what else lies beside them."""
    file = getattr(sys.modules.get(type(training).__module__), "__file__", None)
    if file is None:
        return
    home, said = Path(file).absolute().parent, set[int]()
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is None or not (name == "__main__" or path.startswith(str(home))):
            continue
        place = Path(path).absolute()
        within = place.parts[len(home.parts) :]
        if home not in place.parents or {"isc_runtime", "site-packages"} & set(within):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, GENERATORS) and id(value) not in said:
                said.add(id(value))
                yield f"{'/'.join(within)}:{attribute}", value
