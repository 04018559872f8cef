"""Where checkpoints live: what holds for an artifact of the ISC and for a folder of a laptop.

Stores are objects of all ranks, and `prepare` is a collective: every rank calls it. A checkpoint comes about
in the folder of this run (`fence`), and gets its name when every byte of it is on the disk.
Only the master touches the directory; it tells the others what it found. That leaves a rank no way to
wait for a file that another one failed to write, and no way to see a stale copy of a network file system.
"""

from __future__ import annotations

import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from isc_runtime.background import Background
from isc_runtime.checkpointing.on_disk.durable import (
    TEMPORARY_SUFFIX,
    link_durably,
    sync_directory,
    sync_file,
)
from isc_runtime.checkpointing.on_disk.entries import Entry, Examine
from isc_runtime.checkpointing.on_disk.layout import ArtifactLayout, Layout
from isc_runtime.checkpointing.on_disk.manifest import Checksums, Manifest
from isc_runtime.checkpointing.on_disk.verification import verified
from isc_runtime.checkpointing.stores.fence import Fence, remove
from isc_runtime.checkpointing.stores.keeping import superfluous
from isc_runtime.checkpointing.stores.output import written_by_torch
from isc_runtime.checkpointing.stores.repair import Repair
from isc_runtime.checkpointing.stores.starts import Starts
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group


class Store(ABC):
    """Checkpoints in one directory, and a link to the newest.

    Args:
        directory: it exists and can be written: preflight made sure.
        group: the ranks.
        keep: how many checkpoints to keep besides the best and the anchors; 0 keeps all.
    """

    kind: type[Layout]  # of directory
    compared = "its checksum is of what was read back"  # what the log says of the look at what was written
    in_folders = False  # whether a checkpoint needs room for more than one file; a Checkpointer says so
    keep_best = 1  # of those that were the best when they were saved; a Checkpointer says so, too

    def __init__(self, directory: Path, group: Group, keep: int = 0) -> None:
        self.directory = directory.absolute()
        self.group = group
        self.keep = keep
        self.layout = self.kind(self.directory)
        self.fence = Fence(self.layout)
        self.repair = Repair(self.layout, self.fence)
        self.starts = Starts(self.directory, self.fence, self.kind is ArtifactLayout)
        self._newest: Entry | None = None  # what this run has published last, or resumed from
        self.fence.folder = group.master(self._take_over)

    def _take_over(self) -> Path:
        """Makes this run the owner of the directory, and puts that in order; returns the run's folder."""
        folder = self.fence.enter()
        self.heal()
        return folder

    def begin_start(self, options: CheckpointOptions) -> None:
        """Notes that a training starts here. The master's.

        Raises:
            IscError: too many starts in a row have saved nothing.
        """
        environment = self.group.environment
        complete = [entry for entry in self.entries() if entry.is_complete]
        is_fresh = options.fresh and not environment.restarts
        self.starts.begin(complete[-1] if complete else None, options, is_fresh, environment.started_at)

    @property
    def link_name(self) -> str:
        """The name of the link to the newest checkpoint."""
        return self.layout.link_name

    def entries(self) -> list[Entry]:
        """All that looks like a checkpoint, oldest first. The master's."""
        return self.layout.entries()

    def newest_count(self) -> int:
        """How many starts there were with the last one that has saved something here. The master's."""
        return max(map(self.fence.count_of, self.entries()), default=0)

    def check_room(self, size: int) -> None:
        """There must be room for two checkpoints: the old one goes when the new one is there. The master's.

        Args:
            size: of one, in bytes.

        Raises:
            IscError: there is not.
        """
        missing, words = (1, "another checkpoint") if self.layout.named() else (2, "two checkpoints")
        free = shutil.disk_usage(self.directory).free
        if free < missing * size:
            raise IscError(
                f"There is no room for {words}: {missing * size} bytes are needed, {free} are free",
                self.directory,
                "Free some space, or use another directory.",
                ExitCode.SAVE,
            )

    def prepare(self, step: int, force: bool) -> Path:
        """Makes room for the next checkpoint and returns where its payload goes. All ranks call it.

        Args:
            step: the training's step.
            force: whether to keep this checkpoint when newer ones replace the others; the master's counts.
        """
        return self.group.master(lambda: self._prepare(step, force))

    def _prepare(self, step: int, force: bool) -> Path:
        self.fence.check()
        with self.fence.upheld():
            self.repair.restore_link(self._newest)
            payload = self.next_payload(step, force)
            self.staged(payload).parent.mkdir(exist_ok=True)
        return payload

    def staged(self, path: Path) -> Path:
        """Where a file of a checkpoint is until all of it has its name."""
        return self.fence.folder / path.relative_to(self.directory)

    @abstractmethod
    def next_payload(self, step: int, force: bool) -> Path:
        """What `prepare` does. The master's."""

    @abstractmethod
    def write(self, state: dict[str, Any], payload: Path) -> str | None:
        """Writes the payload atomically. The master's.

        Returns:
            The checksum of what was handed to the system, if it is durable already; None if it is not.
        """

    def publish(self, payload: Path) -> None:
        """Makes a checkpoint with a manifest the newest. The master's.

        Raises:
            IscError: another run has taken over, or the checkpoint is gone.
            OSError: the link could not be written.
        """
        entry = self.layout.entry_of(payload)
        if not entry.path.exists():
            self._gone(entry)
        before = self.layout.link.readlink() if self.layout.link.is_symlink() else None
        self.repair.make_latest(entry)
        if not entry.path.exists():  # with a link to nowhere every later save would fail, too
            if before is not None:
                link_durably(self.layout.link, str(before), self.fence.folder)
            else:
                self.fence.throw_away(self.layout.link)
            self._gone(entry)
        self._newest = entry
        self.starts.progressed()

    def _gone(self, entry: Entry) -> NoReturn:
        raise IscError(
            "The checkpoint was deleted before it became the latest",
            entry.path,
            "A sync of the ISC, or a person, has deleted it; the next save makes a new one.",
            ExitCode.SAVE,
        )

    def check_owner(self) -> None:
        """Whether this run still has the directory. The master's. Raises IscError if it was replaced."""
        self.fence.check()

    def tidy(self) -> None:
        """Deletes what newer checkpoints have made superfluous. The master's, in the background.

        Kept are the newest, those that were the best when they were saved, all anchors, and what this run
        has published last. A failure to delete is no failure to save.
        """
        found = superfluous(self.entries(), self.keep, self.keep_best, self.repair.immovable, self._newest)
        for entry in found:
            with contextlib.suppress(OSError):  # in this order: what a kill leaves of it is no checkpoint
                for path in entry.parts():
                    self.fence.throw_away(path)

    def manifest_path(self, payload: Path) -> Path:
        """Where the manifest of a payload goes."""
        return self.layout.entry_of(payload).manifest

    def save(
        self,
        state: dict[str, Any],
        payload: Path,
        step: int,
        details: dict[str, Any],
        check: Callable[[], None] = lambda: None,
        more_files: Checksums | None = None,
    ) -> Manifest:
        """Writes a checkpoint so that it is durable as a whole before its manifest says so. The master's.

        Args:
            state: what is saved.
            payload: the file for it.
            step: the training's step.
            details: what the manifest says of it besides.
            check: called when the bytes are durable; what it raises undoes the save.
            more_files: files that belong to it too, and are durable already.

        Raises:
            OSError, IscError: it could not be written; what was there of it is gone.
        """
        saved_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        details = {**details, "owner": self.fence.owner}
        staged = self.staged(payload)
        try:
            with written_by_torch(payload):
                handed = self.write(state, staged)
            # The checksum costs no time while the disk is waited for; and none of them holds up an end.
            reader = Background("checkpoint-reader")
            described = reader.submit(Manifest.of, [staged], step, saved_at, details, more_files)
            reader.close(wait=False)
            if handed is None:
                sync_file(staged)
            manifest = described.result()
            if handed is not None and manifest.files[staged.name]["xxh3_128"] != handed:
                self._altered(payload)
            sync_directory(staged.parent)
            check()
            manifest.write(self.staged(self.manifest_path(payload)))
            for path in reversed(self.layout.entry_of(payload).parts()):  # its manifest last
                self.staged(path).rename(path)
                sync_directory(self.directory)
        except BaseException:
            self.discard(payload)
            raise
        return manifest

    def _altered(self, payload: Path) -> NoReturn:
        raise IscError(
            "What was read back is not what was written",
            payload,
            "The disk, the network behind it or this machine's memory changes bytes: use another.",
            ExitCode.SAVE,
        )

    def discard(self, payload: Path) -> None:
        """Removes what a failed save left. The master's; never raises."""
        temporary = payload.with_name(payload.name + TEMPORARY_SUFFIX)
        for path in [*self.layout.entry_of(payload).parts(), temporary]:
            remove(self.staged(path))
            with contextlib.suppress(OSError):  # it is not there, or this run was replaced
                self.fence.throw_away(path)

    def set_all_aside(self) -> None:
        """Leaves an empty store, for a fresh start. The master's.

        Raises:
            IscError: something cannot be moved; a later start would take it for the newest.
        """
        with self.fence.upheld():
            self.repair.set_all_aside()

    def latest(self) -> Entry | None:
        """What the link points to, looked up by name: the directory may have been moved. The master's."""
        return self.layout.latest(self.entries())

    def heal(self) -> None:
        """Repairs what a kill at any instant can leave, before anything else looks here. The master's.

        Raises:
            IscError: what has the link's name is no link, and cannot be moved.
        """
        with self.fence.upheld():
            self.repair.heal()

    def choose(self, examine: Examine = verified) -> tuple[Entry, Manifest] | None:
        """The newest checkpoint that is good; damaged newer ones are set aside.

        Args:
            examine: says which is good; by default that of which every byte is as it was saved.

        Returns:
            The checkpoint, now the latest, or None if there never was one. The master's.

        Raises:
            IscError: there are checkpoints, and none of them is good.
        """
        with self.fence.upheld():
            chosen = self.repair.choose(examine)
        self._newest = None if chosen is None else chosen[0]
        return chosen
