"""TensorBoard's event files."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isc_runtime.config import PLAIN
from isc_runtime.tracking.tracker import settings_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PROBE = 4096  # bytes that must find room before TensorBoard gets a new file
EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


class TensorBoardEvents:
    """Scalars, what a start is as text, and hparams, by which TensorBoard compares runs.

    Args:
        directory: where the event files go.
    """

    name = "TensorBoard"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def begin(self, step: int) -> None:
        """What a killed run has written beyond this step comes again and is purged."""
        from torch.utils.tensorboard import SummaryWriter  # seconds that other ranks need not spend

        self._directory.mkdir(parents=True, exist_ok=True)
        # A SummaryWriter that fails at its first write leaves a thread, a descriptor and a file behind.
        with tempfile.TemporaryFile(dir=self._directory, buffering=0) as probe:
            probe.write(bytes(PROBE))
        with _later_than_all_files_in(self._directory):
            self._writer = SummaryWriter(str(self._directory), purge_step=step + 1)

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        """As text, and as hparams."""
        from torch.utils.tensorboard.summary import hparams

        if self._writer is None:
            return
        text = json.dumps(start, indent=2, ensure_ascii=False)
        self._writer.add_text("run", "\n".join(f"    {line}" for line in text.splitlines()), step)
        compared = {name: value for name, value in settings_of(start).items() if type(value) in PLAIN}
        summaries = hparams(compared, {"training/loss": 0.0})  # type: ignore[no-untyped-call]
        for summary in summaries:  # add_hparams would begin a run of its own
            self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def add(self, values: Mapping[str, float], step: int) -> None:
        """A scalar each."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hands all values to the file system."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Ends its thread, too."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


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
