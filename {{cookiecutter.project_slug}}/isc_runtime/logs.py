"""What a training says: log lines, a progress bar on a terminal, values for trackers."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from isc_runtime.tracking.guarded import Guarded
from isc_runtime.tracking.tensorboard_events import TensorBoardEvents
from isc_runtime.tracking.tracker import Tracker

if TYPE_CHECKING:
    from typing_extensions import Self

Show = Callable[[int, str], None]  # what a progress bar is told: batches done, and a text
logger = logging.getLogger("train")

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


def configure_logging(is_master: bool) -> None:
    """Log lines to standard output, from the master alone. What ends another rank is printed, not logged."""
    logging.basicConfig(
        format=FORMAT,
        level=logging.INFO if is_master else logging.CRITICAL,
        stream=sys.stdout,
        force=True,
    )


class Scalars:
    """The values of a training, for its trackers: on the master; on other ranks nothing happens.

    Args:
        directory: for logs, or None on a rank that is not the master.
        describe: called with the step when a training begins or goes on; returns what trackers are told.
        trackers: TensorBoard's files in `directory`, unless others are given.
    """

    def __init__(
        self,
        directory: Path | None,
        describe: Callable[[int], Mapping[str, Any]] | None = None,
        trackers: Sequence[Tracker] | None = None,
    ) -> None:
        if trackers is None:
            trackers = [TensorBoardEvents(directory)] if directory is not None else []
        self._trackers = [Guarded(tracker, directory) for tracker in trackers]
        self._describe = describe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, step: int) -> None:
        """Goes on after `step`: what a killed run has noted beyond it comes again, and is not kept twice."""
        for tracker in self._trackers:
            tracker.begin(step)
        if self._describe is not None:
            start = self._describe(step)
            for tracker in self._trackers:
                tracker.describe(start, step)

    def add(self, name: str, value: float, step: int) -> None:
        """Notes one value."""
        self._add({name: value}, step)

    def report(self, kind: str, where: str, values: dict[str, float], step: int) -> str:
        """Says values in one dense line of the log, and notes them.

        Args:
            kind: what their names begin with for trackers: `kind/name`.
            where: what the line begins with.
            values: by name.
            step: the training's.

        Returns:
            The values as the line has them.
        """
        said = "  ".join(f"{name} {_readable(value)}" for name, value in values.items())
        logger.info("%s %s", where, said)
        self._add({f"{kind}/{name}": value for name, value in values.items()}, step)
        return said

    def flush(self) -> None:
        """Hands all values to the file system: before a save, so that none is lost that is not repeated."""
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Writes what is left."""
        for tracker in self._trackers:
            tracker.close()

    def _add(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.add(values, step)


def _readable(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-2 <= abs(value) < 1e5 else f"{value:.3g}"


@contextlib.contextmanager
def progress_bar(is_master: bool, total: int, done: int) -> Iterator[Show]:
    """A progress bar on the master's terminal; nothing elsewhere.

    Args:
        is_master: whether this process shows anything.
        total: batches of the whole training.
        done: batches done before.

    Yields:
        A function to call with the batches done so far and a text.
    """
    if not (is_master and sys.stdout.isatty()):
        yield lambda completed, text: None
        return
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(), redirect_stdout=True) as bar:
        # log lines written through the redirected stream appear above the bar
        logging.basicConfig(format=FORMAT, level=logging.INFO, stream=sys.stdout, force=True)
        task = bar.add_task("training", total=total, completed=done, text="")
        yield lambda completed, text: bar.update(task, completed=completed, text=text)
    logging.basicConfig(format=FORMAT, level=logging.INFO, stream=sys.stdout, force=True)
