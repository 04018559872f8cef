"""What a training says: log lines, a progress bar on a terminal, scalars for TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from typing_extensions import Self

Show = Callable[[int, str], None]  # what a progress bar is told: batches done, and a text
PROBE = 4096  # bytes that must find room before TensorBoard gets a new file
EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{10})\.")
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
    """TensorBoard's scalars, written by the master; on other ranks nothing happens.

    Args:
        directory: where the event files go, or None on a rank that is not the master.
        describe: called with the writer and the step when a training begins or goes on.
    """

    def __init__(
        self, directory: Path | None, describe: Callable[[SummaryWriter, int], None] | None = None
    ) -> None:
        self._directory = directory
        self._describe = describe
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, step: int) -> None:
        """Goes on after `step`: what a killed run has written beyond it comes again and is purged."""
        self._attempt(lambda: self._open(step + 1))
        if self._writer is not None and self._describe is not None:
            self._attempt(partial(self._describe, self._writer, step))

    def add(self, name: str, value: float, step: int) -> None:
        """Notes one value."""
        if self._writer is not None:
            self._attempt(partial(self._writer.add_scalar, name, value, step))

    def report(self, kind: str, where: str, values: dict[str, float], step: int) -> str:
        """Says values in one dense line of the log, and notes them.

        Args:
            kind: what their names begin with in TensorBoard: `kind/name`.
            where: what the line begins with.
            values: by name.
            step: the training's.

        Returns:
            The values as the line has them.
        """
        said = "  ".join(f"{name} {_readable(value)}" for name, value in values.items())
        logger.info("%s %s", where, said)
        for name, value in values.items():
            self.add(f"{kind}/{name}", value, step)
        return said

    def flush(self) -> None:
        """Hands all values to the file system: before a save, so that none is lost that is not repeated."""
        if self._writer is None:
            self._attempt(lambda: self._open(None))
        else:
            self._attempt(self._writer.flush)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._attempt(self._writer.close)

    def _open(self, purge_step: int | None) -> None:
        if self._directory is not None:
            from torch.utils.tensorboard import SummaryWriter  # seconds that other ranks need not spend

            self._directory.mkdir(parents=True, exist_ok=True)
            # A SummaryWriter that fails at its first write leaves a thread, a descriptor and a file behind.
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as probe:
                probe.write(bytes(PROBE))
            with _later_than_all_files_in(self._directory):
                self._writer = SummaryWriter(str(self._directory), purge_step=purge_step)

    def _attempt(self, action: Callable[[], object]) -> None:
        """A full disk costs the curves of a training, not the training; so does a path that the locale cannot
        spell, and TensorBoard neither."""
        try:
            action()
        except (OSError, UnicodeError) as error:
            writer, self._writer = self._writer, None
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.close()  # ends its thread
            logger.warning("TensorBoard is off until the next save: %s in %s", error, self._directory)


@contextlib.contextmanager
def _later_than_all_files_in(directory: Path) -> Iterator[None]:
    """The next event file of this thread comes after those that are there, whatever the clock says.

    TensorBoard reads files in the order of their names, which begin with the second in which they were made.
    After a clock was set back an earlier start would come last, and purge what is newer; so would, now and
    then, the first of two starts within a second.
    """
    from tensorboard.summary.writer import event_file_writer

    seconds = [int(match[1]) for path in directory.iterdir() if (match := EVENT_FILE.match(path.name))]
    own, shift = threading.get_ident(), max(0.0, max(seconds, default=0) + 1 - time.time())

    class Clock:
        def time(self) -> float:
            return time.time() + shift * (threading.get_ident() == own)

    event_file_writer.time = Clock()
    try:
        yield
    finally:
        event_file_writer.time = time


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
