"""What a training has changed in the form of its parts since they were built.

A resume builds them anew, from the code, and loads values into them. So it must know of what was not there
yet: a mask that a forward pass has made, layers that were unfrozen, a group that an optimizer was given; and
of what a dict does not hold any more.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from isc_runtime.checkpointing.dict_parts import make_own, methods_of, shared
from isc_runtime.printable import listed
from isc_runtime.ranks.buffers import is_plain
from isc_runtime.ranks.shards import is_sharded

Changes = dict[str, dict[str, Any]]  # by part, of plain values
Places = list[list[int | None]]
Names = dict[int, tuple[list[str], nn.Parameter]]

OTHER_FUNCTION = (
    "%s %r computed rates by another function than those that it is built with, and no function is saved: a "
    "resume goes on with those that it is built with. Build it with one function, which asks for the step."
)

OTHER_PARAMETERS = (
    "[STATE] %r has other parameters than it was built with (%s), and a resume builds it as before: it will "
    "not take this checkpoint. Build it in the form that it has now, or give it that before the training."
)

logger = logging.getLogger("checkpoint")


class Forms:
    """The forms of the parts of a training.

    Args:
        parts: as they were built.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._tensors = {name: _tensors(part.state_dict()) for name, part in _modules(parts)}
        self._parameters = {  # whatever is bound in their place later may be freed
            name: [(key, weakref.ref(one), one.requires_grad) for key, one in part.named_parameters()]
            for name, part in _modules(parts)
        }
        names = _names(parts)
        self._groups = {name: _groups(part, names) for name, part in _optimizers(parts)}
        self._keys = {name: list(part) for name, part in parts.items() if isinstance(part, dict)}
        self._shared = {
            name: shared(part, parts.values()) for name, part in parts.items() if isinstance(part, dict)
        }
        self._functions = {name: _functions(part) for name, part in parts.items()}
        self._buffers = {name: {key for key, _ in _buffers(part)} for name, part in _modules(parts)}
        self._has_warned = False
        self._told: set[str] = set()  # the modules with other parameters

    def changes(self, parts: Mapping[str, Any], state: Mapping[str, Any]) -> Changes:
        """What has changed since then; nothing of a part whose form is as it was. Asked at each save.

        Args:
            parts: of the training, now.
            state: of each of them.
        """
        found: Changes = {}
        for name, module in _modules(parts):
            if name in self._tensors:
                made = self._made(name, module, state[name])
                thawed = {
                    key: not was_trained
                    for key, parameter, was_trained in self._parameters[name]
                    if (one := parameter()) is not None and one.requires_grad != was_trained
                }
                noted = {"buffers": made, "trained": thawed, "types": self._types(name, module)}
                noted |= self._without(name, module, state[name])
                found |= {name: noted} if any(noted.values()) else {}
        names = _names(parts)
        for name, optimizer in _optimizers(parts):
            groups = _groups(optimizer, names)
            if groups != self._groups.get(name, groups):
                found[name] = {"groups": groups}
        for name, part in parts.items():
            gone = [key for key in self._keys.get(name, ()) if isinstance(part, dict) and key not in part]
            found |= {name: {"gone": gone}} if gone else {}
            if before := self._shared.get(name):
                own = [list(path) for path in before - shared(part, parts.values())]
                found |= {name: {**found.get(name, {}), "own": own}} if own else {}
            places = self._places_of_functions(name, part)
            found |= {name: {"functions": places}} if places else {}
        return found

    def _places_of_functions(self, name: str, part: Any) -> Places:
        """Which of the functions that a schedule was built with it has now for each group of parameters, for
        each of the schedules that it is made of; None: of another one. Nothing if that is as it was."""
        built, now = self._functions.get(name, []), _functions(part)
        if len(now) != len(built):
            return []
        pairs = list(zip(now, built, strict=True))
        places = [[_place_of(one, own) for one in functions] for functions, own in pairs]
        if any(None in found for found in places) and not self._has_warned:
            self._has_warned = True
            logger.warning(OTHER_FUNCTION, "[STATE]", name)
        return [] if places == [[*range(len(own))] for own in built] else places

    def _types(self, name: str, module: nn.Module) -> dict[str, torch.dtype]:
        """Those of the parameters that had another one."""
        before = self._tensors[name]
        own = {key: one for key, one in module.named_parameters() if key in before and not is_sharded(one)}
        return {key: one.dtype for key, one in own.items() if one.dtype != before[key][1]}

    def _made(self, name: str, module: nn.Module, state: Mapping[str, Any]) -> list[str]:
        """The buffers that were not there, or had another shape or type."""
        tensors, before = _tensors(state), self._tensors[name]
        if tensors == before:
            return []
        buffers = dict(_buffers(module))
        return [key for key, form in tensors.items() if before.get(key) != form and key in buffers]

    def _without(self, name: str, module: nn.Module, state: Mapping[str, Any]) -> dict[str, list[str]]:
        """The buffers that are no more, and the parameters that are others: by name, or by shape."""
        before = {key: shape for key, (shape, _) in self._tensors[name].items()}
        now = {key: shape for key, (shape, _) in _tensors(state).items()}
        if now == before:
            return {}
        gone = [key for key in before if key not in now and key in self._buffers[name]]
        buffers = self._buffers[name].union(key for key, _ in _buffers(module))
        others = [key for key in {**now, **before} if now.get(key) != before.get(key) and key not in buffers]
        if others and name not in self._told:
            self._told.add(name)
            logger.warning(OTHER_PARAMETERS, name, listed(others))
        return {"gone_buffers": gone, "others": others}


def _names(parts: Mapping[str, Any]) -> Names:
    """The parameters by their identity: with the part that each belongs to, and its name there."""
    return {
        id(parameter): ([name, key], parameter)
        for name, module in _modules(parts)
        for key, parameter in module.named_parameters()
    }


def _groups(optimizer: Optimizer, names: Names) -> list[list[list[str] | None]]:
    """The parameters of each group, by part and name; None where they belong to no part."""
    return [[names.get(id(one), (None,))[0] for one in group["params"]] for group in optimizer.param_groups]


def reform(parts: Mapping[str, Any], changes: Changes, loaded: Mapping[str, Any]) -> None:
    """Gives parts that were built anew the form that they had when a checkpoint was made.

    What is not possible is left to those who load: they say that it does not fit.

    Args:
        parts: of the training.
        changes: as `Forms.changes` has told them.
        loaded: what the checkpoint holds, by the name of the part.
    """
    for name, module in _modules(parts):
        for key in changes.get(name, {}).get("buffers", ()):
            _bind(module, key, loaded.get(name, {}).get(key))
        for key in changes.get(name, {}).get("gone_buffers", ()):
            _bind(module, key, None)
        own = dict(module.named_parameters())
        for key, is_trained in changes.get(name, {}).get("trained", {}).items():
            if key in own:
                own[key].requires_grad_(is_trained)
        for key, dtype in changes.get(name, {}).get("types", {}).items():
            if key in own:
                own[key].data = own[key].data.to(dtype)
    for name, optimizer in _optimizers(parts):
        groups = changes.get(name, {}).get("groups", ())
        saved = loaded.get(name, {}).get("param_groups", ())
        if groups and len(saved) == len(groups):
            _give_groups(optimizer, parts, groups, saved)
    for name, part in parts.items():
        for key in changes.get(name, {}).get("gone", ()) if isinstance(part, dict) else ():
            methods_of(part).pop(part, key, None)
        for path in changes.get(name, {}).get("own", ()) if isinstance(part, dict) else ():
            with contextlib.suppress(LookupError, TypeError, AttributeError):  # it is no tensor here any more
                make_own(part, tuple(path))
        _give_functions(name, part, changes.get(name, {}).get("functions", ()))


def schedulers_in(parts: Iterable[Any]) -> Iterator[LRScheduler]:
    """The schedulers among the parts, and those that a SequentialLR or a ChainedScheduler is made of."""
    for part in parts:
        if isinstance(part, LRScheduler):
            yield part
            yield from schedulers_in(getattr(part, "_schedulers", ()))


def _functions(part: Any) -> list[list[Any]]:
    """Those of the schedules that compute rates by functions, one for each group of parameters."""
    return [list(one.lr_lambdas) for one in _with_functions(part)]


def _with_functions(part: Any) -> list[Any]:
    return [one for one in schedulers_in([part]) if isinstance(getattr(one, "lr_lambdas", None), list)]


def _place_of(function: Any, own: list[Any]) -> int | None:
    """Where a function is among others. What an object holds that is called like one is in the checkpoint."""
    kind = _kind_of(function)
    return next((place for place, one in enumerate(own) if _kind_of(one) == kind), None)


def _kind_of(function: Any) -> Any:
    kind = function if isinstance(function, partial) else type(function)
    return getattr(function, "__code__", kind)


def _give_functions(name: str, part: Any, places: Sequence[list[int | None]]) -> None:
    for scheduler, found in zip(_with_functions(part), places, strict=False):
        own = dict(enumerate(scheduler.lr_lambdas))
        if None in found:
            logger.warning(OTHER_FUNCTION, "[RESUME]", name)
        elif own.keys() >= {*found}:
            scheduler.lr_lambdas = [own[place] for place in found if place is not None]


def _bind(module: nn.Module, key: str, value: Any) -> None:
    """Makes room for a buffer, whose value is loaded with all others, or takes it out: None."""
    path, _, name = key.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        return
    own = owner._buffers.get(name)
    if value is None and name in owner._buffers:
        owner._buffers[name] = None
    elif isinstance(value, Tensor) and own is not None and is_plain(own):
        own.data = torch.empty_like(value, device=own.device)  # other modules may hold it, too
    elif isinstance(value, Tensor) and (name in owner._buffers or not hasattr(owner, name)):
        device = next((own.device for own in itertools.chain(module.parameters(), module.buffers())), None)
        owner.register_buffer(name, torch.empty_like(value, device=device))


def _give_groups(
    optimizer: Optimizer, parts: Mapping[str, Any], groups: list[list[Any]], saved: list[dict[str, Any]]
) -> None:
    """Gives an optimizer the parameters that its groups had; those that are as they were stay."""
    names_now = _names(parts)
    known = {tuple(name): parameter for name, parameter in names_now.values()}
    own, before = optimizer.param_groups, _groups(optimizer, names_now)
    found = [
        own[at]["params"]
        if names in before[at : at + 1]
        else [known.get(tuple(name)) if name else None for name in names]
        for at, names in enumerate(groups)
    ]
    every = [parameter for parameters in found for parameter in parameters]
    if any(parameter is None for parameter in every) or len({*map(id, every)}) < len(every):
        return
    del own[len(found) :]
    for group, parameters in zip(own, found, strict=False):
        group["params"] = parameters
    for parameters, settings in list(zip(found, saved, strict=True))[len(own) :]:
        optimizer.add_param_group({**settings, "params": parameters})


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_buffers(remove_duplicate=False)


def _modules(parts: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in parts.items() if isinstance(part, nn.Module))


def _optimizers(parts: Mapping[str, Any]) -> Iterator[tuple[str, Optimizer]]:
    return ((name, part) for name, part in parts.items() if isinstance(part, Optimizer))


def _tensors(state: Mapping[str, Any]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in state.items() if isinstance(value, Tensor)}
