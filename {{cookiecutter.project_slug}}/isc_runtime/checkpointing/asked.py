"""What the command line asked for when a run began, and what it asks for now.

A checkpoint holds the settings of its run. What is asked for explicitly, and otherwise than then, wins over
it; the same command again changes nothing.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from isc_runtime.options import GIVEN, CheckpointOptions

PLAIN = (bool, int, float, str, type(None))
SETTINGS = {"learning_rate": "lr"}  # options that are called otherwise than what an optimizer calls them
# What changes how a training runs, and not what it computes.
OPERATIONAL = {"workers", "log_steps", "data_root", "timeout", "first_timeout", GIVEN}
OPERATIONAL |= {field.name for field in fields(CheckpointOptions)}

Groups = dict[str, list[dict[str, Any]]]  # the settings of each optimizer, by its name in the state

logger = logging.getLogger("checkpoint")


class Asked:
    """The options of a run, and the classes of its parts.

    Args:
        arguments: as `isc_runtime.options.parse` returns them; None if there is no command line.
        parts: of the training.
    """

    def __init__(self, arguments: argparse.Namespace | None, parts: Mapping[str, Any]) -> None:
        given = {} if arguments is None else vars(arguments)
        self._now = {name: _plain(value) for name, value in given.items() if name not in OPERATIONAL}
        self._explicit = given.get(GIVEN, frozenset())
        self._classes = {
            name: f"{type(part).__module__}.{type(part).__name__}" for name, part in parts.items()
        }
        self._begun_with = dict(self._now)

    def state(self) -> dict[str, Any]:
        """For the checkpoint: what was asked for so far."""
        return {"options": self._begun_with, "classes": self._classes}

    def take_over(self, saved: dict[str, Any], parts: Mapping[str, Any], fresh: Groups) -> None:
        """Gives the parts, which a checkpoint has just filled, what the command line asks for otherwise.

        Args:
            saved: what `state` returned when the checkpoint was made.
            parts: of the training.
            fresh: the settings of its optimizers as they were before the checkpoint was loaded.
        """
        before, said = saved["options"], []
        for name in sorted(self._now.keys() & before.keys()):
            if self._now[name] == before[name]:
                continue
            said.append(f"--{name.replace('_', '-')} {self._now[name]}, not {before[name]}")
            if name in self._explicit and _set(SETTINGS.get(name, name), parts, fresh):
                said[-1] += " (taken over)"
        classes = saved["classes"]
        for name in sorted(self._classes.keys() & classes.keys()):
            if self._classes[name] != classes[name]:
                said.append(f"{name} is a {self._classes[name]}, not a {classes[name]}")
        self._begun_with = {**before, **{name: self._now[name] for name in self._explicit & self._now.keys()}}
        if said:
            logger.warning("[RESUME] Otherwise than when this run began: %s", "; ".join(said))


def settings_of(parts: Mapping[str, Any]) -> Groups:
    """The settings of the optimizers among the parts, without their parameters."""
    return {
        name: [{key: value for key, value in group.items() if key != "params"} for group in part.param_groups]
        for name, part in parts.items()
        if isinstance(part, Optimizer)
    }


def _set(key: str, parts: Mapping[str, Any], fresh: Groups) -> bool:
    """Puts a setting of the fresh optimizers into those that were loaded. Returns whether one has it."""
    found = False
    for name, groups in fresh.items():
        optimizer = parts[name]
        for group, asked in zip(optimizer.param_groups, groups, strict=True):
            if key not in asked:
                continue
            found = True
            if key == "lr" and "initial_lr" in group:  # a scheduler has come from the one to the other
                wanted = asked.get("initial_lr", asked["lr"])
                group["lr"] *= wanted / group["initial_lr"] if group["initial_lr"] else 1.0
                group["initial_lr"] = wanted
            else:
                group[key] = asked[key]
        for scheduler in (part for part in parts.values() if isinstance(part, LRScheduler)):
            if key == "lr" and scheduler.optimizer is optimizer:
                scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    return found


def _class_of(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _plain(value: Any) -> Any:
    return value if type(value) in PLAIN else str(value)
