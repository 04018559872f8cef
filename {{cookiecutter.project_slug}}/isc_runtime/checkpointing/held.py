"""What objects hold that has a state of its own: does that come with theirs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from isc_runtime.tree import leaves

COMPLETE = ("torch",)  # packages whose objects save what they hold, or need not
TOKEN = "isc_runtime: is this saved?"


def held_by(holder: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, and what plain lists, tuples and dicts among them hold."""
    for name, value in getattr(holder, "__dict__", {}).items():
        yield name, value
        if type(value) in (list, tuple):
            yield from ((f"{name}[{index}]", part) for index, part in enumerate(value))
        elif type(value) is dict:
            for index, (key, part) in enumerate(value.items()):  # a parameter may be a key
                is_short = isinstance(key, str | int | float | None)
                yield f"{name}[{repr(key) if is_short else f'{type(key).__name__} {index}'}]", part


def attribute_of(holder: Any, name: str) -> Any:
    """An attribute; None if there is none, or if to ask for it fails: of a dict whose keys are attributes."""
    try:
        return getattr(holder, name, None)
    except Exception:  # a __getattr__ or a property of the user's
        return None


def has_method(holder: Any, name: str) -> bool:
    """Whether an object, and not a class, has a method."""
    return callable(attribute_of(holder, name)) and not isinstance(holder, type)


def has_state(holder: Any) -> bool:
    """Whether the `state_dict` of an object holds anything. Who cannot be asked is believed to."""
    try:
        return bool(holder.state_dict())
    except Exception:  # a state_dict of the user's
        return True


def steps_without_state(holder: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds that takes steps, as a schedule does, and has nothing to save them with."""
    for name, value in held_by(holder):
        is_of_others = type(value).__module__.partition(".")[0] in COMPLETE
        if has_method(value, "step") and not has_method(value, "state_dict") and not is_of_others:
            yield name, value


def forgotten_by_parts(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What parts of a training hold that has a `state_dict`, and leave out of their own.

    So do optimizers that wrap another one, and save what they keep themselves. It is tried out: nothing is
    changed in the end.

    Yields:
        The name of the part, that of the attribute, and what it is.
    """
    everything = list(parts.values())
    for name, part in parts.items():
        if isinstance(part, dict | nn.Module) or type(part).__module__.partition(".")[0] in COMPLETE:
            continue
        for attribute, held in held_by(part):
            if isinstance(held, nn.Module) or any(held is one for one in everything):
                continue
            if has_method(held, "state_dict") and not _is_without_state(held) and not _is_told(part, held):
                yield name, attribute, held


def _is_without_state(held: Any) -> bool:
    if type(held) is torch.optim.SGD:
        return not any(group["momentum"] for group in held.param_groups)
    return not isinstance(held, Optimizer) and not has_state(held)


def _is_told(part: Any, held: Any) -> bool:
    """Whether the state of a part holds that of the other object. Who cannot be asked is believed."""
    try:
        return _asks(part, held) or (isinstance(held, Optimizer) and _shows(part, held))
    except Exception:  # a state_dict of the user's
        return True


def _asks(part: Any, held: Any) -> bool:
    """Whether a part calls the other's `state_dict` for its own."""
    asked, own, original = [], vars(held).get("state_dict"), held.state_dict

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(True)
        return original(*arguments, **options)

    held.state_dict = noted
    try:
        part.state_dict()
    finally:
        del held.state_dict
        if own is not None:
            held.state_dict = own
    return bool(asked)


def _shows(part: Any, held: Optimizer) -> bool:
    """Whether a part takes the state of the other optimizer itself: what is put there appears."""
    if held.state is getattr(part, "state", None):
        return True
    parameter = held.param_groups[0]["params"][0]
    before = held.state.get(parameter)
    held.state[parameter] = {**(before or {}), TOKEN: TOKEN}
    try:
        return any(leaf == TOKEN for _, leaf in leaves(part.state_dict()) if isinstance(leaf, str))
    finally:
        del held.state[parameter]
        if before is not None:
            held.state[parameter] = before
