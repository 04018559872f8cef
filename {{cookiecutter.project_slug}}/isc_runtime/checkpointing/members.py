"""Which parts a training has, and of what classes; and what of that it has changed since it was built.

A resume builds the parts from the code, as they are at a start: it cannot fill one that is not there, and
another class would go on with a state that is not its own.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from isc_runtime.errors import START_OVER, ExitCode, IscError

RESERVED = {"rng", "saves", "asked"}  # what a checkpoint holds besides the parts
FSDP = "torch.distributed.fsdp"  # where its classes are

Changes = dict[str, dict[str, str]]  # "came", "gone" and "replaced": names of parts, and their classes

logger = logging.getLogger("checkpoint")


class Members:
    """The parts of a training.

    Args:
        parts: as they were built.
        left_out: the names that the training says need not be saved.
    """

    def __init__(self, parts: Mapping[str, Any], left_out: Collection[str]) -> None:
        self._built = classes_of(parts)
        self._objects: dict[str, weakref.ref[Any]] = {}
        for name, part in parts.items():
            with contextlib.suppress(TypeError):  # a dict is always the same one
                self._objects[name] = weakref.ref(part)
        self._left_out = left_out
        self._said: Changes = {}

    def changes(self, parts: Mapping[str, Any]) -> Changes:
        """What has changed since then; nothing if nothing has. At each save: names what the last one had not.

        Args:
            parts: of the training, now.
        """
        now = classes_of(parts)
        found = {
            "came": {name: kind for name, kind in now.items() if name not in self._built},
            "gone": {name: kind for name, kind in self._built.items() if name not in parts},
            "replaced": {
                name: kind for name, kind in now.items() if self._is_replaced(name, kind, parts[name])
            },
        }
        found = {how: names for how, names in found.items() if names}
        if found != self._said:
            self._say(found)
            self._said = found
        return found

    def _is_replaced(self, name: str, kind: str, part: Any) -> bool:
        """By another object: a lazy module changes its class itself."""
        known = self._objects.get(name)
        return self._built.get(name, kind) != kind and (known is None or known() is not part)

    def _say(self, found: Changes) -> None:
        for name in sorted(found.get("came", {}).keys() - {*self._left_out}):
            logger.warning(
                "[STATE] %r is in state() only since the training has begun: a resume, which begins as a "
                "start does, could not fill it, and ends there. Make it when the training is built, and "
                "return it from state() from the start on; or add %r to left_out if a new one will do.",
                *(name, name),
            )
        for name in sorted(found.get("gone", ())):
            logger.warning(
                "[STATE] %r is not in state() any more: a resume, which begins as a start does, would not "
                "find it in the checkpoint, and ends there. Return it from state() always.",
                name,
            )
        for name, kind in sorted(found.get("replaced", {}).items()):
            logger.warning(
                "[STATE] %r is a %s now, and was a %s when the training was built: a resume builds that one "
                "again, which the other's state does not fit, and ends there. Have both in state() from the "
                "start on, under two names.",
                *(name, kind, self._built[name]),
            )


def classes_of(parts: Mapping[str, Any]) -> dict[str, str]:
    """The full names of the classes of parts; the template's own are left out: where they are may change.

    FSDP2 puts a class of its own before that of a model in shards, which is the same model.
    """
    kinds = {
        name: next(one for one in type(part).__mro__ if not one.__module__.startswith(FSDP))
        for name, part in parts.items()
    }
    return {
        name: f"{kind.__module__}.{kind.__qualname__}"
        for name, kind in kinds.items()
        if not kind.__module__.startswith("isc_runtime.")
    }


def check_members(
    changes: Changes, loaded: Collection[str], parts: Mapping[str, Any], left_out: Collection[str], path: Path
) -> None:
    """Compares the parts of a checkpoint with those that the code has built.

    Args:
        changes: as `Members.changes` has told them when it was made.
        loaded: the names in the checkpoint.
        parts: of the training.
        left_out: the names that it says need not be saved.
        path: of the checkpoint.

    Raises:
        IscError: a part would be lost, or filled with the state of another class.
    """
    came, gone, now = changes.get("came", {}), changes.get("gone", {}), classes_of(parts)
    for name, kind in came.items():
        if name not in parts and name not in left_out:
            raise IscError(
                f"The training had added {name!r}, a {kind}, to state() after its start: it would be lost",
                path,
                "Make it when the training is built, and return it from state() from the start on. To go on "
                f"without it add {name!r} to left_out.",
                ExitCode.CHECKPOINT,
            )
    for name in gone:
        if name in parts and name not in loaded:
            raise IscError(
                f"The training had taken {name!r} out of state(): the checkpoint does not hold it",
                path,
                f"Go on without it from the start, by a state() that does not return it; or {START_OVER}.",
                ExitCode.CHECKPOINT,
            )
    for name, kind in changes.get("replaced", {}).items():
        if now.get(name, kind) != kind:
            raise IscError(
                f"The training had put a {kind} in the place of its {name!r}; the code builds a {now[name]}",
                path,
                f"To go on from here build a {kind.rpartition('.')[2]} from the start; or {START_OVER}.",
                ExitCode.CHECKPOINT,
            )
    for name in sorted({*loaded} - {*parts} - RESERVED - {*left_out}):
        logger.warning(
            "[RESUME] The checkpoint's %r is no part of the training any more: it is left out, and later "
            "checkpoints do not hold it. If it should be, return it from state() again before the next save.",
            name,
        )
