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
            yield from ((f"{name}[{key!r}]", part) for key, part in value.items())


def steps_without_state(holder: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds that takes steps, as a schedule does, and has nothing to save them with."""
    for name, value in held_by(holder):
        if isinstance(value, type) or callable(getattr(value, "state_dict", None)):
            continue
        is_of_others = type(value).__module__.partition(".")[0] in COMPLETE
        if callable(getattr(value, "step", None)) and not is_of_others:
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
            is_stateful = callable(getattr(held, "state_dict", None)) and not isinstance(held, type)
            if not is_stateful or isinstance(held, nn.Module) or any(held is one for one in everything):
                continue
            if not _is_without_state(held) and not _is_told(part, held):
                yield name, attribute, held


def _is_without_state(held: Any) -> bool:
    if type(held) is torch.optim.SGD:
        return not any(group["momentum"] for group in held.param_groups)
    return not isinstance(held, Optimizer) and not held.state_dict()


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
