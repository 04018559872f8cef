"""What a tracker is, and what those of packages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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
