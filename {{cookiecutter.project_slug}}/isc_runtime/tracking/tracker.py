"""What a tracker is, and how a training is guarded against one that fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

logger = logging.getLogger("train")


class Tracker(Protocol):
    """Where the curves of a training go. Only the master has one, and any method may raise whatever it likes.

    A class of your own is given the directory for logs: `--tracker my_module:MyTracker`.

    Attributes:
        name: for people.
    """

    name: str

    def begin(self, step: int) -> None:
        """A training begins (0), or goes on after this step: what comes again must not be kept twice."""

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        """What this start is: commit, options, versions, as in run.json."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Notes values by name."""

    def flush(self) -> None:
        """A save begins: what was added until now does not come again after it."""

    def close(self) -> None:
        """Writes what is left. After a failure `begin` may follow."""


MEMBERS = (*Tracker.__annotations__, *(name for name in vars(Tracker) if not name.startswith("_")))


class Guarded:
    """A tracker that costs a training nothing but its curves, whatever becomes of it.

    One that fails is off until the next save, when it is begun anew.

    Args:
        tracker: whose calls these are.
        where: its files, for people.
    """

    def __init__(self, tracker: Tracker, where: object) -> None:
        self._tracker, self._where = tracker, where
        self._is_on = self._has_begun = False
        self._step = 0  # the last one it was told

    def begin(self, step: int) -> None:
        """As a tracker's."""
        self._step = step
        if self._attempt(partial(self._tracker.begin, step)):
            self._is_on = self._has_begun = True

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        """As a tracker's."""
        if self._is_on:
            self._attempt(partial(self._tracker.describe, start, step))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """As a tracker's."""
        if self._has_begun:  # else it has missed the beginning, and must be told of that one
            self._step = max(self._step, step)
        if self._is_on:
            self._attempt(partial(self._tracker.add, values, step))

    def flush(self) -> None:
        """As a tracker's."""
        if self._is_on:
            self._attempt(self._tracker.flush)
        else:
            self.begin(self._step)

    def close(self) -> None:
        """As a tracker's."""
        if self._is_on:
            self._attempt(self._tracker.close)

    def _attempt(self, action: Callable[[], object]) -> bool:
        """A full disk, a bug in a package, a service that has died: whatever it is, the training goes on."""
        try:
            action()
        except Exception as error:
            self._is_on = False
            with contextlib.suppress(Exception):
                self._tracker.close()  # what threads and files it has
            what = f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else error
            logger.warning("%s is off until the next save: %s in %s", self._tracker.name, what, self._where)
            return False
        return True


class Seen:
    """The last step of each value that a tracker has already.

    Args:
        last: by the values' names.
    """

    def __init__(self, last: Mapping[str, int]) -> None:
        self._last = dict(last)

    def new(self, values: Mapping[str, float], step: int) -> dict[str, float]:
        """Those of the values that it does not have: after a resume steps come again, with equal values."""
        fresh = {name: value for name, value in values.items() if self._last.get(name, -1) < step}
        self._last.update(dict.fromkeys(fresh, step))
        return fresh


def settings_of(start: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a start is, what runs are compared by: options, ranks, commit."""
    return {**start.get("options", {}), "ranks": start.get("ranks"), "commit": start.get("commit")}
