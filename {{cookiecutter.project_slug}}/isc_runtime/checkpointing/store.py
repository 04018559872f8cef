"""Where checkpoints live: what holds for an artifact of the ISC and for a folder of a laptop.

Stores are objects of all ranks, and `prepare` is a collective: every rank calls it.
Only the master touches the directory; it tells the others what it found. That leaves a rank no way to
wait for a file that another one failed to write, and no way to see a stale copy of a network file system.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from isc_runtime.checkpointing.durable import (
    PROBE_PREFIX,
    TEMPORARY_SUFFIX,
    Described,
    Manifest,
    link_durably,
    sync_directory,
    sync_file,
)
from isc_runtime.checkpointing.entries import SET_ASIDE, Entry, first_save_was_cut_short, linked, newest_good
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group

logger = logging.getLogger("checkpoint")


class Store(ABC):
    """Checkpoints in one directory, and a link to the newest.

    Args:
        directory: it exists and can be written: preflight made sure.
        group: the ranks.
    """

    link_name: str
    in_folders = False  # whether a checkpoint needs room for more than one file; a Checkpointer says so

    def __init__(self, directory: Path, group: Group) -> None:
        self.directory = directory.absolute()
        self.group = group
        group.master(self.heal)

    @abstractmethod
    def entries(self) -> list[Entry]:
        """All that looks like a checkpoint, oldest first. The master's."""

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
        return payload.with_name("manifest.json")

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

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Moves a checkpoint out of the way: it is never deleted. The master's."""
        (self.directory / SET_ASIDE).mkdir(exist_ok=True)
        target = Path(
            tempfile.mkdtemp(prefix=f"{datetime.now():%Y%m%d-%H%M%S}-", dir=self.directory / SET_ASIDE)
        )
        for path in entry.parts():
            if path.exists():
                path.rename(target / path.name)
        sync_directory(target)
        sync_directory(self.directory)
        logger.warning("[REPAIR] %s was set aside in %s: %s", entry.name, target, reason)

    def set_all_aside(self) -> None:
        """Leaves an empty store, for a fresh start. The master's."""
        (self.directory / self.link_name).unlink(missing_ok=True)
        for entry in self.entries():
            self.set_aside(entry, "--fresh")
        sync_directory(self.directory)

    def make_latest(self, entry: Entry) -> None:
        """Points the link to `entry`. The master's."""
        link_durably(self.directory / self.link_name, self.link_target(entry))

    def link_target(self, entry: Entry) -> str:
        """What the link says: a name where the store is free to choose, so that it survives a move."""
        return entry.name

    def latest(self) -> Entry | None:
        """What the link points to, looked up by name: the directory may have been moved. The master's."""
        return linked(self.directory / self.link_name, self.entries())

    def heal(self) -> None:
        """Repairs what a kill at any instant can leave, before anything else looks here. The master's.

        Nothing that ever was a complete checkpoint is deleted, and a link to nowhere stays: it is the sign
        that there was something to resume from.
        """
        link = self.directory / self.link_name
        for path in self.litter():
            remove(path)
            logger.warning("[REPAIR] %s was left by an interrupted save and is removed", path)
        latest = self.latest()
        complete = [entry for entry in self.entries() if entry.is_complete]
        self._clear_unfinished(latest, complete)
        if latest is None and complete:
            latest = complete[-1]
        if latest is not None and not (
            link.is_symlink() and str(link.readlink()) == self.link_target(latest)
        ):
            self.make_latest(latest)
            logger.warning("[REPAIR] %s was lost or pointed elsewhere; it points to %s", link, latest.path)
        sync_directory(self.directory)

    def _clear_unfinished(self, latest: Entry | None, complete: list[Entry]) -> None:
        """Clears away saves that were cut short: no manifest, and newer than what is known to be whole."""
        entries = self.entries()
        if latest is None and not complete:
            # The very first save leaves one entry and no link. Anything else without a manifest was damaged
            # later or comes from another program: restoring reports it.
            if first_save_was_cut_short(self.directory / self.link_name, entries):
                self.set_aside(entries[0], "it has no manifest: the first save was cut short")
            return
        newest = latest or complete[-1]
        for entry in entries:
            if entry > newest and not entry.is_complete:
                if latest is None:
                    self.set_aside(entry, "it has no manifest, and there is no link to tell its age")
                else:
                    for path in entry.parts():
                        remove(path)
                    logger.warning("[REPAIR] %s was an unfinished save and is removed", entry.path)

    def choose(self) -> tuple[Entry, Manifest] | None:
        """The newest checkpoint of which every byte is as it was saved; damaged newer ones are set aside.

        Returns:
            The checkpoint, now the latest, or None if there never was one. The master's.

        Raises:
            IscError: there are checkpoints, and none of them is good.
        """
        chosen, damaged = newest_good(self.entries())
        for entry, reason in damaged:
            logger.error("[DAMAGED] %s: %s", entry.path, reason)
        if chosen is not None:
            for entry, reason in damaged:
                self.set_aside(entry, reason)
            if self.latest() != chosen[0]:
                self.make_latest(chosen[0])
            return chosen
        link = self.directory / self.link_name
        if damaged or os.path.lexists(link):
            reasons = [f"{entry.name}: {reason}" for entry, reason in damaged]
            raise IscError(
                "There are checkpoints, and none of them can be used",
                f"{self.directory} ({'; '.join(reasons) or f'{link.name} points to nothing'})",
                "Bring a good one back, or start over with --fresh (the checkpoints are kept aside).",
                ExitCode.CHECKPOINT,
            )
        return None

    def litter(self) -> Iterator[Path]:
        """Temporary files that an interrupted save or probe left. The master's."""
        temporary = self.directory / f"{self.link_name}_temp"
        if os.path.lexists(temporary):
            yield temporary
        yield from self.directory.glob(f"{PROBE_PREFIX}*")
        yield from self.directory.glob(f"*{TEMPORARY_SUFFIX}")


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


def remove(path: Path) -> None:
    """Deletes a file, a link or a folder; what cannot be deleted now is deleted by the next heal."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
