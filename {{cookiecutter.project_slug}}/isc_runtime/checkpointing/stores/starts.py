"""A training that gets nowhere says so: each start notes from which checkpoint it goes on.

An interruption gives no reason, and leaves nothing behind but what was written before it. So a start notes
that it begins, and how far it is, every few seconds until its first save is published: that moves the
position. A start that finds the notes of one from the same position knows that it saved nothing, and what it
was at. Whatever ends with a reason of its own takes its note away: that reason was said.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from isc_runtime.checkpointing.on_disk.durable import link_durably, sync_directory, sync_file
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import Damaged
from isc_runtime.checkpointing.on_disk.start_notes import (
    BEGINNING,
    FILE,
    FOLDER,
    LINK,
    LOCAL_FILE,
    Start,
    StartNotes,
)
from isc_runtime.checkpointing.stores.fence import Fence
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks import ending

INTERVAL = 5.0  # seconds between two notes
# How a start ends that is interrupted, on the nodes that live longer.
UNSAID = (ExitCode.PEER, ExitCode.TAKEN)
logger = logging.getLogger("checkpoint")


class Starts:
    """The starts in a checkpoint directory. The master's.

    Args:
        directory: of the checkpoints.
        fence: of this run: it may be replaced.
        is_artifact: whether only directories that a link names are shipped.
    """

    def __init__(self, directory: Path, fence: Fence, is_artifact: bool) -> None:
        self._fence = fence
        self._file = directory / FOLDER / FILE if is_artifact else directory / LOCAL_FILE
        self._link = directory / LINK if is_artifact else None
        self._begun = 0.0
        self._step: int | None = None
        self._notes = StartNotes(BEGINNING, 0, Start())
        self._is_over = threading.Event()
        self._is_over.set()
        self._writing = threading.Lock()

    def begin(self, newest: Entry | None, options: CheckpointOptions, is_fresh: bool, begun: float) -> None:
        """A start begins; it is noted before it does anything else.

        Args:
            newest: what it goes on from.
            options: how many starts may lead to nothing.
            is_fresh: whether it leaves that aside and begins with nothing.
            begun: when its command was started, seconds since the epoch.

        Raises:
            IscError: too many starts in a row have saved nothing.
        """
        position = BEGINNING if is_fresh else position_of(newest)
        before = self._read()
        is_again = before is not None and before.position == position
        count = before.count + 1 if before is not None and is_again else 1
        if before is not None and is_again:
            self._judge(before, count, options.max_fruitless_starts, is_fresh)
        self._begun = begun
        self._notes = StartNotes(position, count, Start(options.mtbf_seconds))
        self._is_over.clear()
        ending.at_end(self._ended)
        atexit.register(self._left, os.getpid())
        try:
            self._write(is_durable=True)
        except OSError as error:
            self.over()  # it may have its name, and be not durable
            logger.warning("[START] Not noted in %s (%s)", self._file, error.strerror)
            return
        threading.Thread(target=self._beat, name="starts", daemon=True).start()

    def _read(self) -> StartNotes | None:
        is_elsewhere = self._link is not None and self._file.parent.is_symlink()
        return None if is_elsewhere else StartNotes.read(self._file)

    def _judge(self, before: StartNotes, count: int, most: int, is_fresh: bool) -> None:
        place = before.position.partition(" saved")[0]
        what = f"This is start {count} from {place}: the one before has saved nothing"
        reasons = " ".join(reasons_of(before.last, is_fresh))
        if most and count >= most:
            self._take_away()
            raise IscError(
                f"{count - 1} start{'s' * (count > 2)} in a row from {place} saved nothing",
                self._file.parent,
                f"{reasons} Each start costs money, so this one ends. The next one counts anew; "
                "--max-fruitless-starts says how many there may be.",
                ExitCode.FRUITLESS,
            )
        logger.warning("[START] %s. %s", what, reasons)

    def saw(self, step: int, failed: int, is_saving: bool, is_evaluating: bool) -> None:
        """How far the training is now; it is noted a little later."""
        if self._is_over.is_set():
            return
        last = self._notes.last
        is_batch = step != self._step and not is_evaluating
        self._step = step
        self._notes = replace(
            self._notes,
            last=replace(
                last,
                started=last.started or self._age(),
                batches=last.batches + is_batch,
                failed=failed,
                is_saving=is_saving,
                is_evaluating=is_evaluating,
            ),
        )

    def progressed(self) -> None:
        """A save is published: the next start goes on from another position."""
        self._is_over.set()

    def over(self) -> None:
        """The training ends by itself, and says why: then no other start is told."""
        if self._notes.count:
            self._is_over.set()
            self._take_away()

    def _ended(self, code: int) -> None:
        if code < 128 and code not in UNSAID:
            self.over()

    def _left(self, pid: int) -> None:
        if os.getpid() == pid:  # and this is no child of the training
            self.over()

    def _age(self) -> float:
        return max(0.0, time.time() - self._begun)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # another run has taken over: it writes now
            while not self._is_over.wait(INTERVAL):
                self._write(is_durable=False)

    def _write(self, is_durable: bool) -> None:
        """By a rename, so that a kill leaves it whole. Raises OSError."""
        with self._writing:
            if self._is_over.is_set():  # while this waited for its turn
                return
            last = replace(self._notes.last, seen=self._age())
            staged = self._fence.folder / FILE
            staged.write_bytes(replace(self._notes, last=last).content())
            if is_durable:
                sync_file(staged)
                self._make_place()
            staged.replace(self._file)
            if is_durable:
                sync_directory(self._file.parent)

    def _make_place(self) -> None:
        """The directory that ships, and its link; what has their names and is none of ours goes."""
        if self._link is None:
            return
        folder = self._file.parent
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            self._fence.throw_away(folder)
        if not folder.exists():
            staged = self._fence.folder / FOLDER
            staged.mkdir(exist_ok=True)
            staged.rename(folder)
        if os.path.lexists(self._link) and not self._link.is_symlink():
            self._fence.throw_away(self._link)
        if not self._link.is_symlink() or self._link.readlink() != folder:
            link_durably(self._link, str(folder), self._fence.folder)

    def _take_away(self) -> None:
        with self._writing:
            for path in filter(None, (self._link, self._file if self._link is None else self._file.parent)):
                with contextlib.suppress(OSError):
                    self._fence.throw_away(path)


def position_of(newest: Entry | None) -> str:
    """A checkpoint in words: moved or renamed it is the same one."""
    if newest is None:
        return BEGINNING
    try:
        manifest = newest.read_manifest()
    except (Damaged, IscError):
        return newest.name
    run = str(manifest.details.get("owner", {}).get("run", ""))[:32]
    return f"step {manifest.step} saved {manifest.time} by {run}"


def reasons_of(last: Start, is_fresh: bool) -> Iterator[str]:
    """Why a start saved nothing, as far as it is known, and what to do: sentences."""
    if is_fresh:
        yield "--fresh makes each start begin anew: leave it out."
    if last.failed:
        times = f"{last.failed} of its saves" if last.failed > 1 else "its save"
        yield f"In the last one {times} failed: lines with [FAILED] in its log say why."
    if not last.started:
        yield (
            f"In the last one the start-up took more than {last.seen:.0f} s, and no batch was finished. "
            "Do less before the first batch (--dataset-id's data, the model), or ask for longer cycles."
        )
        return
    yield (
        f"In the last one the start-up took {last.started:.0f} of {max(last.seen, last.started):.0f} s, and "
        f"{last.batches} batch{'es were' if last.batches != 1 else ' was'} finished."
    )
    if last.is_evaluating:
        yield "It was in an evaluation: a smaller --eval-batch-size lets it save within."
    if last.is_saving:
        yield "A save was on its way, and did not come to its end."
    elif not last.failed:
        yield (
            "No save was due before its end: save sooner, with --save-seconds or "
            f"--mtbf-seconds ({last.mtbf:g})."
        )
