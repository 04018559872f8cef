"""Where checkpoints live: what holds for an artifact of the ISC and for a folder of a laptop.

Stores are objects of all ranks, and `prepare` is a collective: every rank calls it.
Only the master touches the directory; it tells the others what it found. That leaves a rank no way to
wait for a file that another one failed to write, and no way to see a stale copy of a network file system.
"""

from __future__ import annotations

import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from isc_runtime.checkpointing.on_disk.durable import (
    TEMPORARY_SUFFIX,
    Described,
    Manifest,
    Progress,
    sync_directory,
    sync_file,
    unheard,
)
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.layout import Layout
from isc_runtime.checkpointing.stores.repair import Repair, remove
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group


class Store(ABC):
    """Checkpoints in one directory, and a link to the newest.

    Args:
        directory: it exists and can be written: preflight made sure.
        group: the ranks.
    """

    kind: type[Layout]  # of directory
    in_folders = False  # whether a checkpoint needs room for more than one file; a Checkpointer says so

    def __init__(self, directory: Path, group: Group) -> None:
        self.directory = directory.absolute()
        self.group = group
        self.layout = self.kind(self.directory)
        self.repair = Repair(self.layout)
        group.master(self.heal)

    @property
    def link_name(self) -> str:
        """The name of the link to the newest checkpoint."""
        return self.layout.link_name

    def entries(self) -> list[Entry]:
        """All that looks like a checkpoint, oldest first. The master's."""
        return self.layout.entries()

    def check_room(self, size: int) -> None:
        """There must be room for two checkpoints: the old one goes when the new one is there. The master's.

        Args:
            size: of one, in bytes.

        Raises:
            IscError: there is not.
        """
        missing, words = (1, "another checkpoint") if self.entries() else (2, "two checkpoints")
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
        return self.group.master(lambda: self.next_payload(step, force))

    @abstractmethod
    def next_payload(self, step: int, force: bool) -> Path:
        """What `prepare` does. The master's."""

    @abstractmethod
    def write(self, state: dict[str, Any], payload: Path) -> None:
        """Writes the payload, atomically but not yet durably. The master's."""

    @abstractmethod
    def publish(self, payload: Path) -> None:
        """Makes a checkpoint with a manifest the newest. The master's."""

    def tidy(self) -> None:  # noqa: B027  # on the ISC the platform does it
        """Deletes what newer checkpoints have made superfluous. The master's, in the background."""

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
        others: Described | None = None,
    ) -> Manifest:
        """Writes a checkpoint so that it is durable as a whole before its manifest says so. The master's.

        Args:
            state: what is saved.
            payload: the file for it.
            step: the training's step.
            details: what the manifest says of it besides.
            check: called when the bytes are durable; what it raises undoes the save.
            others: files that belong to it too, and are durable already.

        Raises:
            OSError, IscError: it could not be written; what was there of it is gone.
        """
        saved_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        try:
            with written_by_torch(payload):
                self.write(state, payload)
            with ThreadPoolExecutor(1) as reader:  # the checksum costs no time while the disk is waited for
                described = reader.submit(Manifest.of, [payload], step, saved_at, details, others)
                sync_file(payload)
            manifest = described.result()
            sync_directory(payload.parent)
            check()
            manifest.write(self.manifest_path(payload))
            sync_directory(self.directory)
        except BaseException:
            self.discard(payload)
            raise
        return manifest

    def discard(self, payload: Path) -> None:
        """Removes what a failed save left. The master's; never raises."""
        entry = Entry((), payload, self.manifest_path(payload))
        for path in [*entry.parts(), payload.with_name(payload.name + TEMPORARY_SUFFIX)]:
            remove(path)

    def set_all_aside(self) -> None:
        """Leaves an empty store, for a fresh start. The master's.

        Raises:
            IscError: something cannot be moved; a later start would take it for the newest.
        """
        self.repair.set_all_aside()

    def latest(self) -> Entry | None:
        """What the link points to, looked up by name: the directory may have been moved. The master's."""
        return self.layout.latest(self.entries())

    def heal(self) -> None:
        """Repairs what a kill at any instant can leave, before anything else looks here. The master's.

        Raises:
            IscError: what has the link's name is no link, and cannot be moved.
        """
        self.repair.heal()

    def choose(self, progress: Progress = unheard) -> tuple[Entry, Manifest] | None:
        """The newest checkpoint of which every byte is as it was saved; damaged newer ones are set aside.

        Args:
            progress: called, while bytes are compared, with how many of how many have been so far.

        Returns:
            The checkpoint, now the latest, or None if there never was one. The master's.

        Raises:
            IscError: there are checkpoints, and none of them is good.
        """
        return self.repair.choose(progress)


@contextlib.contextmanager
def written_by_torch(path: Path) -> Iterator[None]:
    """Around whatever torch writes to `path`: says in words what went wrong, and spares the CRC.

    The CRC of `torch.save` takes longer than all the rest of it, and `torch.load` never looks at it: the
    manifest has a better checksum.
    """
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    except RuntimeError as error:  # torch writes in C++, and the system's error number is lost there
        raise IscError(
            f"torch could not write the file ({' '.join(str(error).split())[:200]})",
            path,
            "The disk is full, over quota or failing.",
            ExitCode.SAVE,
        ) from error
    finally:
        torch.serialization.set_crc32_options(before)
