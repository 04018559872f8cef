"""A training is guarded against its trackers: whatever becomes of one costs nothing but curves."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from isc_runtime.background import Background
from isc_runtime.rng import undisturbed
from isc_runtime.tracking.tracker import Tracker

PATIENCE = 60.0  # seconds for one call; the training stands meanwhile

logger = logging.getLogger("train")


class Stuck(Exception):
    """A call does not come back."""


class Guarded:
    """A tracker that costs a training nothing but its curves, whatever becomes of it.

    One that fails is off until the next save, when it is begun anew. It is called in a thread of its own: so
    a call that never comes back can be left alone, and none can put its handlers in place of the training's,
    which save when they are told to stop. What it draws at random is not missing in the training.

    Args:
        tracker: whose calls these are.
        where: its files, for people.
        patience: seconds for one call.
    """

    def __init__(self, tracker: Tracker, where: object, patience: float = PATIENCE) -> None:
        self._tracker, self._where, self._patience = tracker, where, patience
        self._thread = Background("tracker")
        self._call: Future[object] | None = None  # the last one
        self._is_on = self._has_begun = False
        self._step = 0  # the last one it was told
        self._untold: tuple[Mapping[str, Any], int] | None = None  # what this start is

    def begin(self, step: int) -> None:
        """As a tracker's."""
        self._step = step
        if self._attempt(partial(self._tracker.begin, step)):
            self._is_on = self._has_begun = True
            if self._untold is not None:
                (start, step), self._untold = self._untold, None  # it may fail at that again: this once
                self._attempt(partial(self._tracker.describe, start, step))

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        """As a tracker's."""
        if not (self._is_on and self._attempt(partial(self._tracker.describe, start, step))):
            self._untold = start, step

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
        elif self._call is None or self._call.done():
            self.begin(self._step)

    def close(self) -> None:
        """As a tracker's."""
        if self._is_on:
            self._attempt(self._tracker.close)
        self._thread.close(wait=False)

    def _attempt(self, action: Callable[[], object]) -> bool:
        """A full disk, a bug in a package, a service that has died: whatever it is, the training goes on."""
        try:
            self._ask(action)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a package may even want to end the process, as if all were done
            self._is_on = False
            if not isinstance(error, Stuck):
                with contextlib.suppress(Exception, SystemExit):
                    self._ask(self._tracker.close)  # what threads and files it has
            what = f"{type(error).__name__}: {error}" if not isinstance(error, OSError | Stuck) else error
            logger.warning("%s is off until the next save: %s in %s", self._tracker.name, what, self._where)
            return False
        return True

    def _ask(self, action: Callable[[], object]) -> None:
        self._call = self._thread.submit(action)
        with undisturbed():
            wait([self._call], self._patience)
        if not self._call.done():
            raise Stuck(f"it has not come back from a call for {self._patience:g} s")
        self._call.result()
