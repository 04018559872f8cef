"""What a kill, a copy or a failing disk has left is put in order before a training goes on.

What is no good, or not wanted, is moved out of the way, and never deleted. That can fail: the folder for it
may be a file or lie on another file system, the checkpoint may be immutable. Then it stays where it is, the
log says so, and the training goes on with what is good.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.checkpointing.on_disk.durable import (
    PROBE_PREFIX,
    TEMPORARY_SUFFIX,
    link_durably,
    sync_directory,
)
from isc_runtime.checkpointing.on_disk.entries import Entry, Examine, Resume
from isc_runtime.checkpointing.on_disk.foreign import METADATA, PART, nature
from isc_runtime.checkpointing.on_disk.foreign_folder import meant_by
from isc_runtime.checkpointing.on_disk.layout import Layout, is_ours
from isc_runtime.checkpointing.on_disk.manifest import Manifest
from isc_runtime.checkpointing.on_disk.verification import verified
from isc_runtime.checkpointing.stores.aside import move_aside
from isc_runtime.checkpointing.stores.fence import Fence, remove
from isc_runtime.errors import START_OVER, ExitCode, IscError

logger = logging.getLogger("checkpoint")


class Repair:
    """Of the checkpoints of one saver in a directory. The master's.

    Args:
        layout: where they are.
        fence: of this run: it may be replaced while it repairs.

    Attributes:
        immovable: damaged checkpoints that could not be set aside.
    """

    def __init__(self, layout: Layout, fence: Fence) -> None:
        self.layout = layout
        self._fence = fence
        self.immovable: set[Path] = set()

    def set_aside(self, entry: Entry, reason: str) -> bool:
        """Moves a checkpoint out of the way: it is never deleted.

        Returns:
            Whether it could be moved; if not it stays where it is, and the log says so.
        """
        obstacle = self._move_aside(entry.name, entry.parts(), reason)
        if obstacle:
            self.immovable.add(entry.path)
        return not obstacle

    def _move_aside(self, name: str, paths: list[Path], reason: str) -> str:
        """Returns why they stay; nothing if they could be moved."""
        directory = self.layout.directory
        try:
            target = move_aside(paths, directory, self._fence.check)
        except OSError as error:
            obstacle = error.strerror or str(error)
            where = f"{name} stays in {directory} ({reason})"
            logger.warning("[REPAIR] %s: it cannot be set aside (%s)", where, obstacle)
            return obstacle
        logger.warning("[REPAIR] %s was set aside in %s: %s", name, target, reason)
        return ""

    def set_all_aside(self) -> None:
        """Leaves an empty store, for a fresh start.

        Raises:
            IscError: something cannot be moved; a later start would take it for the newest.
        """
        for path in self.layout.strays():
            self._clear(path, [path], "--fresh")
        if self.layout.link.is_symlink():
            self._fence.throw_away(self.layout.link)
        for entry in self.layout.entries():
            self._clear(entry.path, entry.parts(), "--fresh")
        for path in sorted(self._foreign_items()):
            self._clear(path, [path], "--fresh")
        sync_directory(self.layout.directory)

    def _foreign_items(self) -> set[Path]:
        """What lies in the directory itself, and is or holds a checkpoint of another program."""
        directory, items = self.layout.directory, set()
        for path in self.layout.foreign():
            if path == directory:  # of torch.distributed.checkpoint, between all else
                items |= {directory / METADATA, *directory.glob("*.distcp")}
            else:
                items.add(directory / path.relative_to(directory).parts[0])
        return items

    def _clear(self, path: Path, parts: list[Path], reason: str) -> None:
        """Moves what must not stay. Raises IscError."""
        obstacle = self._move_aside(path.name, parts, reason)
        if obstacle:
            raise IscError(
                f"This is in the way, and cannot be set aside ({obstacle})",
                path,
                "Move it to another place, or use another directory.",
                ExitCode.CHECKPOINT,
            )

    def make_latest(self, entry: Entry) -> None:
        """Points the link to `entry`."""
        link_durably(self.layout.link, self.layout.link_target(entry), self._fence.folder)

    def restore_link(self, newest: Entry | None) -> None:
        """Before a save: AtomicDirectory goes by the link, and makes nothing beside one to nowhere.

        Args:
            newest: what this run has published last, which may be gone: a run that was replaced, a sync or a
                person can have deleted it.
        """
        link = self.layout.link
        if newest is None or self.layout.latest([newest] if newest.is_complete else []) is not None:
            return
        if newest.is_complete:
            self.make_latest(newest)
            logger.warning("[REPAIR] %s pointed elsewhere; it points to %s again", link, newest.path)
        elif link.is_symlink() and not os.path.lexists(link.with_name(link.readlink().name)):
            complete = [entry for entry in self.layout.entries() if entry.is_complete]
            if complete:
                self.make_latest(complete[-1])
            else:
                self._fence.throw_away(link)
            became = f"points to {complete[-1].path}" if complete else "is removed"
            logger.warning("[REPAIR] %s was deleted; %s %s", newest.path, link, became)

    def heal(self) -> None:
        """Repairs what a kill at any instant can leave, before anything else looks here.

        Nothing that ever was a complete checkpoint is deleted, and a link to nowhere stays: it is the sign
        that there was something to resume from. So does a copy that has the link's name and is all there is.

        Raises:
            IscError: what has the link's name is no link, and cannot be moved.
        """
        link = self.layout.link
        for path in self.litter():
            remove(path)
            logger.warning("[REPAIR] %s was left by an interrupted save and is removed", path)
        entries = self.layout.entries()
        latest = self.layout.latest(entries)
        complete = [entry for entry in entries if entry.is_complete]
        self._clear_unfinished(latest, complete)
        for path in self.layout.strays():
            if complete or path != link:
                self._clear(path, [path], "it has the name of a link, and is none")
        if latest is None and complete:
            latest = complete[-1]
        if latest is not None and not (
            link.is_symlink() and str(link.readlink()) == self.layout.link_target(latest)
        ):
            self.make_latest(latest)
            logger.warning("[REPAIR] %s was lost or pointed elsewhere; it points to %s", link, latest.path)
        sync_directory(self.layout.directory)

    def _clear_unfinished(self, latest: Entry | None, complete: list[Entry]) -> None:
        """Clears away saves that were cut short: no manifest, and newer than what is known to be whole."""
        entries = self.layout.entries()
        if latest is None and not complete:
            # The very first save leaves one entry and no link. Anything else without a manifest was damaged
            # later or comes from another program: restoring reports it.
            if self.layout.first_save_was_cut_short(entries):
                self.set_aside(entries[0], "it has no manifest: the first save was cut short")
            return
        newest = latest or complete[-1]
        for entry in entries[entries.index(newest) + 1 :]:
            if not entry.is_complete and (kind := nature(entry.payload)) != "foreign":
                if latest is None or kind == "own":  # whole: somebody may have brought it, and not all of it
                    self.set_aside(entry, "it has no manifest: cut short, or not all of it was copied")
                else:
                    for path in filter(os.path.lexists, entry.parts()):
                        with contextlib.suppress(OSError):
                            self._fence.throw_away(path)
                    became = "cannot be" if os.path.lexists(entry.path) else "is"
                    logger.warning("[REPAIR] %s was an unfinished save and %s removed", entry.path, became)

    def choose(self, examine: Examine = verified) -> tuple[Entry, Manifest] | None:
        """The newest checkpoint that is good; damaged newer ones are set aside.

        Args:
            examine: says which is good; by default that of which every byte is as it was saved.

        Returns:
            The checkpoint, now the latest, or None if there never was one.

        Raises:
            IscError: there are checkpoints, and none of them is good.
        """
        found = self.layout.resume(self.layout.entries(), examine)
        for entry, reason in found.damaged:
            logger.error("[DAMAGED] %s: %s", entry.path, reason)
        if found.chosen is not None:
            entry, manifest = found.chosen
            immovable = [one for one, reason in found.damaged if not self.set_aside(one, reason)]
            if immovable:
                entry = self._outrank(entry, immovable)
            if self.layout.latest([entry]) is None:
                self.make_latest(entry)
            return entry, manifest
        if found.begins:
            return None
        if found.foreign:
            raise self._not_taken(found)
        bring = "Bring a good one back"
        bare = [entry.payload for entry, _ in found.damaged if not entry.is_complete]
        if bare and nature(bare[0]) == "own" and not list(bare[0].parent.glob(f"*{PART}")):
            one = shlex.quote(str(bare[0]))
            bring += f", with its manifest; or python -m isc_runtime import {one} does without"
        raise IscError(
            "There are checkpoints, and none of them can be used",
            f"{self.layout.directory} ({found.obstacle})",
            f"{bring}; or {START_OVER}.",
            ExitCode.CHECKPOINT,
        )

    def _not_taken(self, found: Resume) -> IscError:
        """What to do about checkpoints that lie here, and that no start takes."""
        where = f"{self.layout.directory} ({found.obstacle})"
        begin = f"Or begin at step 0: move them to another place, or {START_OVER}."
        if any(map(is_ours, found.foreign)):
            return IscError(
                "There are checkpoints of this project where no start looks",
                where,
                f"Move them, with their manifests, into that directory itself: {self.layout.form}. {begin}",
                ExitCode.CHECKPOINT,
            )
        newest = max(found.foreign, key=lambda path: path.lstat().st_mtime_ns)
        return IscError(
            "There are checkpoints that this project did not write, or that have lost their manifest",
            where,
            f"Go on from one of them: python -m isc_runtime import {shlex.quote(str(meant_by(newest)))} "
            f"does that. {begin}",
            ExitCode.CHECKPOINT,
        )

    def _outrank(self, entry: Entry, damaged: list[Entry]) -> Entry:
        """Makes a good checkpoint newer than damaged ones that cannot be moved; returns where it is then."""
        new = self.layout.outranking(entry, damaged)
        if new == entry:
            return entry
        try:
            entry.path.rename(new.path)
        except OSError as error:
            logger.warning("[REPAIR] %s cannot be renamed to %s (%s)", entry.path, new.name, error.strerror)
            return entry
        sync_directory(self.layout.directory)
        logger.warning("[REPAIR] %s is %s now, to be newer than what is damaged", entry.path, new.name)
        return new

    def litter(self) -> Iterator[Path]:
        """Temporary files that an interrupted save or probe left."""
        temporary = self.layout.directory / f"{self.layout.link_name}_temp"
        if temporary.is_symlink():
            yield temporary
        yield from self.layout.directory.glob(f"{PROBE_PREFIX}*")
        for path in self.layout.directory.glob(f"*{TEMPORARY_SUFFIX}"):
            # Only what a save of ours writes: others call folders and copies so, too, and want them kept.
            named = path.with_name(path.name.removesuffix(TEMPORARY_SUFFIX))
            if path.is_file() and not path.is_symlink() and self.layout.entry_at(named, False) is not None:
                yield path
