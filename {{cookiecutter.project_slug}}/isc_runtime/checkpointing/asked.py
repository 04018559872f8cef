"""What the command line asked for when a run began, and what it asks for now.

A checkpoint holds the settings of its run. What is asked for explicitly, and otherwise than then, wins over
it; the same command again changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from isc_runtime.checkpointing.forms import Forms, reform, schedulers_in
from isc_runtime.checkpointing.kinds import versions_of
from isc_runtime.checkpointing.members import Members, check_members, classes_of
from isc_runtime.options import GIVEN, CheckpointOptions
from isc_runtime.position import Position
from isc_runtime.tree import leaves

GIVEN_PLAIN = (bool, int, float, str)  # settings that a person gives; tuples of betas a scheduler may change
PLAIN = (*GIVEN_PLAIN, type(None))
SETTINGS = {"learning_rate": "lr"}  # options that are called otherwise than what an optimizer calls them
RATES = ("initial_lr", "max_lr", "min_lr", "swa_lr")  # what schedulers note of a learning rate
FORMS_OF_NAMES = (("", ""), ("_", ""), ("", "s"))  # in which a constructor keeps what it was given
MOST_NUMBERS = 20  # milestones, say; what holds more are data
COUNTED = {"last_epoch", "base_lrs"}  # of a schedule, and the rates that are an optimizer's
# What changes how a training runs, and not what it computes.
OPERATIONAL = {"workers", "log_steps", "data_root", "timeout", "first_timeout", "local", "device", GIVEN}
OPERATIONAL |= {field.name for field in fields(CheckpointOptions)}

Rates = dict[str, list[Any]]  # of the groups of each optimizer, by its name in the state
Groups = dict[str, list[dict[str, Any]]]  # the settings of each optimizer, by its name in the state

logger = logging.getLogger("checkpoint")


class Asked:
    """The options of a run, and the classes of its parts.

    Args:
        arguments: as `isc_runtime.options.parse` returns them; None if there is no command line.
        parts: of the training.
        left_out: the names that it says need not be saved.
    """

    def __init__(
        self, arguments: argparse.Namespace | None, parts: Mapping[str, Any], left_out: Collection[str] = ()
    ) -> None:
        given = {} if arguments is None else vars(arguments)
        self._now = {name: _plain(value) for name, value in given.items() if name not in OPERATIONAL}
        self._explicit = given.get(GIVEN, frozenset())
        self._left_out = left_out
        self._begun_with = dict(self._now)
        self._begun_settings, self._rates = plain_settings(parts), rates_of(settings_of(parts))
        self.begin(parts)

    def begin(self, parts: Mapping[str, Any]) -> None:
        """These are the parts that a start builds, before any of them is filled."""
        self._classes = classes_of(parts)
        self._forms, self._members = Forms(parts), Members(parts, self._left_out)

    def state(self, parts: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
        """For the checkpoint: what was asked for so far, and what the training has made of its parts.

        Args:
            parts: of the training, now.
            state: of each of them.
        """
        said = {"options": self._begun_with, "classes": classes_of(parts), "settings": self._begun_settings}
        said["rates"] = self._rates
        said["versions"] = versions_of(state)
        changes = {"forms": self._forms.changes(parts, state), "members": self._members.changes(parts)}
        return said | {name: found for name, found in changes.items() if found}

    def check_members(self, loaded: Mapping[str, Any], parts: Mapping[str, Any], path: Path) -> None:
        """Are the parts of a checkpoint, at this path, those that were built? Raises IscError."""
        changes = loaded.get("asked", {}).get("members", {})
        check_members(changes, loaded, parts, self._left_out, path)

    def reform(self, loaded: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
        """Gives the parts, before a checkpoint fills them, the form that they had when it was made."""
        reform(parts, loaded.get("asked", {}).get("forms", {}), loaded)

    def take_over(self, saved: dict[str, Any], parts: Mapping[str, Any], fresh: Groups) -> None:
        """Gives the parts, which a checkpoint has just filled, what the command line asks for otherwise.

        Args:
            saved: what `state` returned when the checkpoint was made.
            parts: of the training.
            fresh: the settings of its optimizers as they were before the checkpoint was loaded.
        """
        before, said, rates, is_rate = saved["options"], [], saved.get("rates", {}), False
        for name in sorted(self._now.keys() & before.keys()):
            if self._now[name] == before[name]:
                continue
            said.append(f"--{name.replace('_', '-')} {self._now[name]}, not {before[name]}")
            times = _ratio(self._now[name], before[name])
            if name in self._explicit and _set(SETTINGS.get(name, name), parts, fresh, times, rates):
                said[-1] += " (taken over)"
                is_rate |= SETTINGS.get(name, name) == "lr"
        classes = saved["classes"]
        for name in sorted(self._classes.keys() & classes.keys()):
            if self._classes[name] != classes[name]:
                said.append(f"{name} is a {self._classes[name]}, not a {classes[name]}")
        self._begun_with = {**before, **{name: self._now[name] for name in self._explicit & self._now.keys()}}
        self._begun_settings = saved.get("settings", {})
        self._rates = rates_of(fresh) if is_rate else rates
        if said:
            logger.warning("[RESUME] Otherwise than when this run began: %s", "; ".join(said))

    def insist(self, parts: Mapping[str, Any], fresh: Groups) -> None:
        """Gives the parts what is asked for explicitly, where nobody has noted what it was before."""
        said = [
            f"--{name.replace('_', '-')} {self._now[name]}"
            for name in sorted(self._explicit & self._now.keys())
            if _set(SETTINGS.get(name, name), parts, fresh, None, {})
        ]
        if said:
            logger.warning("[RESUME] Asked for explicitly, and taken over: %s", "; ".join(said))


def settings_of(parts: Mapping[str, Any]) -> Groups:
    """The settings of the optimizers among the parts, without their parameters."""
    return {
        name: [{key: value for key, value in group.items() if key != "params"} for group in part.param_groups]
        for name, part in parts.items()
        if isinstance(part, Optimizer)
    }


def plain_settings(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a person may have given and a checkpoint replaces: the seed, the optimizers' settings."""
    settings: dict[str, Any] = {}
    for name, part in parts.items():
        settings |= {f"{name} {key}": value for key, value in _given_to(part)}
        if isinstance(part, Position):
            settings["seed"] = part.seed
        elif isinstance(part, Optimizer):
            for number, group in enumerate(part.param_groups):
                for key, value in group.items():
                    # What a scheduler makes of the rate was not given: only the initial one counts.
                    is_changed = key == "momentum" or (key == "lr" and "initial_lr" in group)
                    if type(value) in GIVEN_PLAIN and not is_changed:
                        settings[f"{name} {number} {key}"] = value
    return settings


def _given_to(part: Any) -> Iterator[tuple[str, Any]]:
    """What a schedule was made with, and those that it is made of; and any other object, as an average of
    weights: its attributes that are called as the constructor's arguments."""
    if isinstance(part, dict | nn.Module | Optimizer | Position):
        return
    for number, one in enumerate([*schedulers_in([part])] or [part]):
        with contextlib.suppress(TypeError, ValueError):  # it has no signature, or no attributes
            given, own = inspect.signature(type(one)).parameters, vars(one)
            for key in (f"{before}{name}{after}" for name in given for before, after in FORMS_OF_NAMES):
                is_counted = isinstance(one, LRScheduler) and key in COUNTED
                if key in own and not is_counted and _is_of_numbers(own[key]):
                    yield f"{number} {key}" if number else key, copy.copy(own[key])


def _is_of_numbers(value: Any) -> bool:
    is_short = not isinstance(value, list | tuple | dict) or len(value) <= MOST_NUMBERS
    return is_short and all(type(leaf) in (bool, int, float) for _, leaf in leaves(value))


def rates_of(settings: Groups) -> Rates:
    """The learning rates that optimizers were made with."""
    return {name: [_plain_rate(group.get("lr")) for group in groups] for name, groups in settings.items()}


def _plain_rate(rate: Any) -> float | None:
    return rate if type(rate) in (int, float) else None


def _set(
    key: str, parts: Mapping[str, Any], fresh: Groups, times: float | None, rates: Mapping[str, list[Any]]
) -> bool:
    """Puts a setting of the fresh optimizers into those that were loaded. Returns whether one has it.

    Args:
        key: of the setting.
        parts: of the training.
        fresh: the settings of its optimizers as the command line gives them.
        times: the option is so many times what it was.
        rates: of the optimizers when they were made, where these are known.
    """
    found = False
    for name, groups in fresh.items():
        optimizer = parts[name]
        known = dict(enumerate(rates.get(name, ())))
        for number, (group, asked) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
            found |= key in asked
            if key == "lr" and key in asked:
                _set_rate(group, asked, times, known.get(number))
            elif key in asked:
                group[key] = asked[key]
        for scheduler in schedulers_in(parts.values()):
            if key == "lr" and scheduler.optimizer is optimizer and hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    return found


def _set_rate(group: dict[str, Any], asked: dict[str, Any], times: float | None, begun: Any) -> None:
    """A scheduler has come from the learning rate that was given to another, and goes on from there. What
    another option says, or the code, is what it was."""
    if group.get("initial_lr"):
        times = asked.get("initial_lr", asked["lr"]) / group["initial_lr"]
    elif begun is not None:
        times = 1.0 if asked["lr"] == begun else _ratio(asked["lr"], begun)
    group["lr"] = asked["lr"] if times is None else group["lr"] * times
    group |= {name: asked[name] for name in RATES if name in group and name in asked}


def _ratio(now: Any, before: Any) -> float | None:
    are_numbers = all(type(value) in (int, float) for value in (now, before))
    return now / before if are_numbers and before else None


def _plain(value: Any) -> Any:
    return value if type(value) in PLAIN else str(value)
