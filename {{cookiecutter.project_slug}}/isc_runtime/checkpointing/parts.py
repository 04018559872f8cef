"""What a training consists of, and whether all of it is saved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Protocol

from torch import nn

from isc_runtime.checkpointing.filling import Stateful
from isc_runtime.checkpointing.held import (
    attribute_of,
    forgotten_by_parts,
    has_method,
    has_state,
    held_by,
    steps_without_state,
)
from isc_runtime.checkpointing.imported import POSITION as POSITION
from isc_runtime.checkpointing.saving.finite import names_of_not_finite
from isc_runtime.checkpointing.saving.loadable import check_state
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.position import Position

State = dict[str, Stateful | dict[str, Any]]  # the parts of a training, by name

logger = logging.getLogger("checkpoint")


class Training(Protocol):
    """What a Checkpointer saves and restores.

    An attribute that has a `state_dict` and need not be saved is named in `left_out`, a tuple of names.
    """

    def state(self) -> State:
        """What the training consists of, by name: "model", "optimizer", ..., and "sampler", the position.

        Asked at each save. A part has a `state_dict` and a `load_state_dict`, or is a dict of plain values.
        Before training starts the parts must be the same on all ranks. What differs between them a part tells
        with `rank_state`; it gets it back as `ranks`, a list.
        """


def parts_of(training: Training) -> State:
    """What the training consists of now.

    Raises:
        IscError: a part could be saved but not restored, or is made anew each time, or there is no position.
    """
    parts = training.state()
    for name, part in parts.items():
        if not isinstance(part, dict) and not has_method(part, "load_state_dict"):
            raise IscError(
                f"A {type(part).__name__} is part of the state, and could be saved but not restored",
                name,
                "Keep it in a dict, as train.py keeps `metrics`, or in an object with state_dict and "
                "load_state_dict.",
                ExitCode.USAGE,
            )
    again = training.state()
    for name, part in parts.items():
        if isinstance(part, dict) and part is not again.get(name):
            raise IscError(
                "A dict is made anew by each call of state(): what a resume puts into it would be lost",
                name,
                "Make it once, as train.py makes `metrics`, and keep it in an attribute.",
                ExitCode.USAGE,
            )
    _position_in(parts)
    return parts


class Place:
    """How far a training is. It is asked each time, for another position may take the place of the first
    one, with other weights of the samples, say; if that fails, what it said before counts: the save says so.

    Raises:
        IscError: there is none at the start.
    """

    def __init__(self, training: Training) -> None:
        self._training, self._last = training, _position_in(training.state())

    def position(self) -> Position:
        """Of now."""
        with contextlib.suppress(Exception):  # a state of the user's
            self._last = _position_in(self._training.state())
        return self._last


def _position_in(parts: State) -> Position:
    position = parts.get(POSITION)
    if not isinstance(position, Position):
        hint = "Add the position in the training data, an ElasticSampler, to what `state` returns."
        raise IscError("The state does not say how far the training is", POSITION, hint, ExitCode.USAGE)
    return position


def collect(training: Training) -> dict[str, Any]:
    """The state of all parts now, not copied. Raises IscError, or what a `state_dict` raises."""
    parts = parts_of(training).items()
    return {name: part if isinstance(part, dict) else part.state_dict() for name, part in parts}


def collect_own(training: Training) -> dict[str, Any]:
    """What only this rank knows, of the parts that have such a thing."""
    return {
        name: tell()
        for name, part in parts_of(training).items()
        if (tell := attribute_of(part, "rank_state")) is not None
    }


def look_at(training: Training) -> frozenset[str]:
    """Looks at the state before training: could it be saved, and loaded again?

    Returns:
        The names of the tensors of its modules that hold a NaN or an infinity already, as a mask may.

    Raises:
        IscError: it could not; or what a `state_dict` raises.
    """
    state = collect(training)
    check_state(state)
    modules = [name for name, part in parts_of(training).items() if isinstance(part, nn.Module)]
    return frozenset(found for name in modules for found in names_of_not_finite(state[name], name))


def names_of_parameters(training: Training) -> frozenset[str]:
    """The names of the parameters of its modules."""
    modules = [(name, part) for name, part in parts_of(training).items() if isinstance(part, nn.Module)]
    return frozenset(f"{name}.{own}" for name, part in modules for own in _parameters(part))


def _parameters(module: nn.Module) -> Iterator[str]:
    return (name for name, _ in module.named_parameters(remove_duplicate=False))


def warn_of_what_is_left_out(training: Training) -> None:
    """Names what the training holds that has a state and is not saved."""
    kind, said = type(training).__name__, set[str]()
    for name in left_out(training):
        holder, _, within = name.partition("[")  # a key may hold a point
        part, _, attribute = holder.partition(".")
        if attribute:
            logger.warning(
                "[STATE] %r holds %s and leaves it out of its state_dict: a resume would begin with a new "
                "one. Add it to what state() returns, under a name of its own, or %r to %s.left_out if that "
                "is what you want.",
                *(part, name.removeprefix(f"{part}."), name, kind),
            )
        elif holder not in said:  # of a hundred that one list holds the first
            said.add(holder)
            logger.warning(
                "[STATE] %s.%s has a state_dict and is not saved: a resume would begin with a new one. Add "
                "%r to what state() returns%s, or to %s.left_out if that is what you want.",
                *(kind, name, holder, ", by an object with state_dict" if within else "", kind),
            )
    for name, value in steps_without_state(training):
        if name.partition("[")[0] not in getattr(training, "left_out", ()):
            logger.warning(
                "[STATE] %s.%s has a step() and no state_dict: a resume would begin with a new one. Give %s "
                "the methods state_dict and load_state_dict, and add %r to what state() returns, or to "
                "%s.left_out.",
                *(kind, name, type(value).__name__, name, kind),
            )


def left_out(training: Training) -> list[str]:
    """The attributes of the training that have a `state_dict` and are not in the state, nor declared so; and
    as `part.attribute` those of its parts, such as an optimizer in another one.
    """
    parts = list(training.state().values())
    saved = {id(parameter) for part in parts if isinstance(part, nn.Module) for parameter in _tensors(part)}
    declared = getattr(training, "left_out", ())
    found = []
    for name, value in held_by(training):
        if name.partition("[")[0] in declared or not has_method(value, "state_dict"):
            continue
        if any(value is part for part in parts) or not has_state(value):
            continue  # a GradScaler that is switched off has nothing to save
        if isinstance(value, nn.Module) and all(id(tensor) in saved for tensor in _tensors(value)):
            continue  # another view of what is saved: DistributedDataParallel, a part of the model
        found.append(name)
    held = (f"{part}.{name}" for part, name, _ in forgotten_by_parts(training.state()))
    return found + [name for name in held if name not in declared]


def _tensors(module: nn.Module) -> list[Any]:
    return [*module.parameters(), *module.buffers()]
