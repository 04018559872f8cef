"""Who may write in a checkpoint directory: the run that started last, and nobody who was replaced.

Each start makes a folder of its own there, `.isc-run-<count>-<id>`, and takes those of earlier starts away.
Whatever a run writes, links or deletes goes by a rename out of its folder or into it, which fails once that
is gone. So a process that was frozen, and wakes when another one has taken over, can do no harm, at whatever
instruction it stood; neither a look before nor a lock of the file system is needed for that.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.checkpointing.on_disk.durable import sync_directory
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.layout import Layout
from isc_runtime.checkpointing.on_disk.manifest import Damaged
from isc_runtime.errors import ExitCode, IscError

RUN_FOLDER = re.compile(r"\.isc-run-([0-9]{1,18})-([0-9a-f]{12})")
MOST_STARTS = 10**18 - 1  # what RUN_FOLDER takes, and a manifest can say: a save with more could not be read
GONE = ".isc-gone-"  # + the rest of its name: the folder of a run that was replaced, about to be deleted


class Fence:
    """Keeps those out of a directory that another run has replaced. The master's.

    Args:
        layout: where the checkpoints are.

    Attributes:
        folder: this run's own, once it is inside.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = layout.directory
        self._mark = (0, "")  # how many starts there were, and this one's name
        self._numbers = 0  # of what was thrown away
        self.folder = layout.directory

    @property
    def count(self) -> int:
        """How many starts there were here, with this one."""
        return self._mark[0]

    @property
    def owner(self) -> dict[str, int | str]:
        """This run, as a manifest names it."""
        return {"count": self._mark[0], "run": self._mark[1]}

    def enter(self) -> Path:
        """Takes the directory over from whatever run had it, and returns this run's folder there.

        Raises:
            IscError: another run has started at the same time, and has it; or no start can count as newer
                than what is there.
            OSError: the folder cannot be made.
        """
        entries = self._layout.entries()
        counts = [count for (count, _), _ in self._runs()] + [self.count_of(entry) for entry in entries]
        if (highest := max(counts, default=0)) >= MOST_STARTS:
            raise IscError(
                f"Something here says that it is of start {highest}, and no start can have a higher number",
                self._directory,
                "Nothing was changed. It is damaged, or somebody made it: use another directory, with a good "
                "checkpoint of this one in it.",
                ExitCode.CHECKPOINT,
            )
        self._mark = (highest + 1, secrets.token_hex(6))
        self.folder = self._directory / f".isc-run-{self._mark[0]}-{self._mark[1]}"
        self.folder.mkdir()
        sync_directory(self._directory)
        if self._is_replaced():
            remove(self.folder)
            raise self._replaced()
        for mark, path in list(self._runs()):
            if mark < self._mark:
                with contextlib.suppress(OSError):
                    path.rename(path.with_name(GONE + path.name.removeprefix(".isc-run-")))
        for path in self._directory.glob(f"{GONE}*"):
            remove(path)
        return self.folder

    def check(self) -> None:
        """Makes sure that this run still has the directory.

        Raises:
            IscError: another run has taken it over.
            OSError: it cannot be read.
        """
        if self._is_replaced():
            raise self._replaced()
        if not self.folder.is_dir():  # a sync of the ISC may have deleted it: nothing says that it stays
            newer = [one for one in self._layout.entries() if self.count_of(one) > self._mark[0]]
            if newer or any(self._runs()):  # or the directory was moved, and another run has one in its place
                raise self._replaced()
            self.folder.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def upheld(self) -> Iterator[None]:
        """Around what fails when another run takes over: that is then the reason.

        Raises:
            IscError: another run has taken over.
        """
        try:
            yield
        except OSError:
            self.check()
            raise

    def throw_away(self, path: Path) -> None:
        """Deletes a file, a link or a folder, unless another run has taken over.

        Raises:
            OSError: it cannot be deleted, or may not be any more.
        """
        self._numbers += 1
        doomed = self.folder / f"{self._numbers}.doomed"
        path.rename(doomed)
        remove(doomed)

    def _runs(self) -> Iterator[tuple[tuple[int, str], Path]]:
        """The folders of all runs that have not been replaced."""
        with os.scandir(self._directory) as items:
            for item in items:
                if (match := RUN_FOLDER.fullmatch(item.name)) and item.is_dir(follow_symlinks=False):
                    yield (int(match[1]), match[2]), self._directory / item.name

    def _is_replaced(self) -> bool:
        return any(mark > self._mark for mark, _ in self._runs())

    def _replaced(self) -> IscError:
        return IscError(
            "Another run has taken over this checkpoint directory",
            self._directory,
            "This one ends and has changed nothing since. If nobody meant to start two, look for a second "
            "process or a second experiment with this directory.",
            ExitCode.TAKEN,
        )

    @staticmethod
    def count_of(entry: Entry) -> int:
        """How many starts there were with the one that saved it; 0 if it does not say."""
        try:
            return entry.read_manifest().owner_count
        except (Damaged, IscError):
            return 0


def remove(path: Path) -> None:
    """Deletes a file, a link or a folder; what cannot be deleted now is deleted by the next heal."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
