"""Where the checkpoints of a directory are, what their names say, and which one a resume takes.

There is a layout for each kind of directory: a folder of a laptop, an artifact of the ISC. Stores, inventory,
export and rehearsal all look through these, and so what one of them says is what the others do. They only
read. A link is looked up by the name of its target: the directory may have been moved or copied.
"""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from isc_runtime.checkpointing.on_disk.entries import MANIFEST, PAYLOAD, Entry, Examine, Resume, newest_good
from isc_runtime.checkpointing.on_disk.foreign import PART, described, may_be_first, nature, other_checkpoints
from isc_runtime.checkpointing.on_disk.foreign_folder import linked
from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest
from isc_runtime.checkpointing.on_disk.start_notes import SAVER as STARTS
from isc_runtime.errors import IscError

LOCAL = "local mode"
SAVER = "AtomicDirectory"  # the name of the saver that a training of this project uses on the ISC
# A folder, not a name: AtomicDirectory takes what begins like a checkpoint for its own.
SET_ASIDE = "set-aside"
NAMED = 3  # checkpoints of another program, in a message


class Layout(ABC):
    """The checkpoints of one saver in a directory.

    Args:
        directory: which one.

    Attributes:
        saver: who saves there.
        link_name: of the link to the newest checkpoint.
        form: what a checkpoint is called there, in words.
    """

    saver: str
    link_name: str
    form: str  # what a checkpoint is called there, in words

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def link(self) -> Path:
        """The link to the newest checkpoint, whether it is there or not."""
        return self.directory / self.link_name

    @abstractmethod
    def entry_at(self, path: Path, is_folder: bool) -> Entry | None:
        """The checkpoint that a file or a folder in the directory belongs to by its name, if it does."""

    @abstractmethod
    def entry_of(self, payload: Path) -> Entry:
        """The checkpoint with this payload, without its age."""

    @abstractmethod
    def link_target(self, entry: Entry) -> str:
        """What the link to an entry says."""

    def entries(self) -> list[Entry]:
        """All that looks like a checkpoint, oldest first. Raises OSError.

        A later run's are newer than an earlier one's, whatever their names say: a run that was replaced and
        did not know it may have used higher numbers. What does not say whose it is counts by its name.
        """
        ages: dict[Entry, tuple[int, int]] = {}
        age = (0, 0)
        for entry in self.named():
            with contextlib.suppress(Damaged, IscError):
                manifest = entry.read_manifest()
                age = (manifest.owner_count, manifest.step if manifest.owner_count else 0)
            ages[entry] = age
        return sorted(ages, key=lambda entry: (ages[entry], entry))

    def named(self) -> list[Entry]:
        """The same in the order of their names; no file is opened. Raises OSError."""
        found: set[Entry | None] = set()
        with os.scandir(self.directory) as items:
            for item in items:
                if not item.is_symlink():
                    path = self.directory / item.name
                    found.add(self.entry_at(path, item.is_dir(follow_symlinks=False)))
        return sorted(entry for entry in found if entry is not None)

    def latest(self, entries: Sequence[Entry]) -> Entry | None:
        """The one of these to which the link points."""
        name = self.link.readlink().name if self.link.is_symlink() else ""
        return next((entry for entry in entries if entry.name == name), None)

    def outranking(self, entry: Entry, others: Sequence[Entry]) -> Entry:
        """Where an entry must be so that it counts as newer than others: here a link is all that it takes."""
        return entry

    def strays(self) -> list[Path]:
        """What has the name of the link, and is none: in a copy of a directory with links followed the files
        themselves are there, and may be all that was copied."""
        names = (self.link, self.link.with_name(f"{self.link_name}_temp"))
        return [path for path in names if os.path.lexists(path) and not path.is_symlink()]

    def first_save_was_cut_short(self, entries: Sequence[Entry]) -> bool:
        """Whether all there is is what a kill in the first save leaves: one entry, no manifest, no link.

        A later save of a training is not: somebody has copied it without its manifest.
        """
        is_alone = len(entries) == 1 and not entries[0].is_complete and not os.path.lexists(self.link)
        return is_alone and may_be_first(entries[0].payload)

    def foreign(self) -> list[Path]:
        """What looks like a checkpoint, and no start takes: another program has written it, or a training of
        this project, and it lies where no start looks. Raises OSError."""
        own = {entry.payload for entry in self.named()} | set(self.strays())
        found = other_checkpoints(self.directory, self.directory / SET_ASIDE)
        return [path for path in found if self._is_foreign(path, own)]

    def _is_foreign(self, path: Path, own: Collection[Path]) -> bool:
        payload = _payload_of(path)
        if path.suffix == PART and path.parent in {other.parent for other in own} - {self.directory}:
            return False
        if has_manifest(payload):  # in a folder of a folder, by another name, as the other kind of directory
            return payload not in own and payload.parent not in own
        found = nature(payload)
        if path.is_dir():  # shards, which tell nothing without the rest
            return payload not in own or found == "foreign"
        # What is cut short, or has lost its manifest, may be an own save, but only where own saves go.
        return found == "foreign" or (found != "empty" and path not in own)

    def resume(self, entries: Sequence[Entry], examine: Examine = Entry.verify) -> Resume:
        """What a resume makes of these entries: it goes on, begins, or cannot.

        Args:
            entries: oldest first.
            examine: says which is good.

        Raises:
            IscError: of `examine`: the newest was written by a newer version of this project.
        """
        found = newest_good(entries, examine)
        if found.chosen is not None:
            return found
        begins, strangers = self.first_save_was_cut_short(entries), self.foreign()
        if found.damaged and not begins:  # that is to be said, whatever else of ours lies here
            strangers = [path for path in strangers if not is_ours(path)]
        if strangers:
            return replace(found, obstacle=self._words_for(strangers), foreign=strangers)
        if begins:
            return replace(found, begins=True)
        reasons = [f"{entry.name}: {reason}" for entry, reason in found.damaged]
        if not reasons and os.path.lexists(self.link):
            is_link = self.link.is_symlink()
            reasons = [f"{self.link_name} {'points to nothing' if is_link else 'is no link, but a copy'}"]
        return replace(found, begins=not reasons, obstacle="; ".join(reasons))

    def _words_for(self, strangers: Sequence[Path]) -> str:
        """Names them, with who saved them and what they hold."""
        misplaced = [str(path.relative_to(self.directory)) for path in strangers if is_ours(path)]
        strangers = [path for path in strangers if not is_ours(path)]
        own = [f"of this project: {', '.join(misplaced[:NAMED])}"] if misplaced else []
        own += [f"and {len(misplaced) - NAMED} more"] if len(misplaced) > NAMED else []
        said = []
        for path in strangers[:NAMED]:
            name = str(path.relative_to(self.directory))
            saver = ArtifactLayout.saver_of(name.partition("/")[0])
            said.append(f"{name}: {f'saver {saver}, ' if saver else ''}{described(path)}")
        more = [f"and {len(strangers) - NAMED} more"] if len(strangers) > NAMED else []
        return "; ".join([*own, *(["without a manifest", *said, *more] if strangers else [])])


class LocalLayout(Layout):
    """A folder: `checkpoint_<YYYYmmdd-HHMMSS>_<step>.pth`, manifests, and `resume.pth`, a link to the newest.

    A sharded checkpoint is a folder in it, `checkpoint_<YYYYmmdd-HHMMSS>_<step>`, with all its files.
    """

    saver = LOCAL
    link_name = "resume.pth"
    form = "checkpoint_<YYYYmmdd-HHMMSS>_<step>, a folder, or .pth with its .manifest.json"
    _name = re.compile(r"(checkpoint_([0-9]{8}-[0-9]{6})_([0-9]+))(\.pth|\.manifest\.json)?")

    def entry_at(self, path: Path, is_folder: bool) -> Entry | None:
        """If of payload and manifest one is gone, the other tells of it."""
        match = self._name.fullmatch(path.name)
        if match is None or (match[4] is None and not is_folder):
            return None
        try:
            datetime.strptime(match[2], "%Y%m%d-%H%M%S")
        except ValueError:
            return None
        day, second = match[2].split("-")
        order = (int(match[3]), int(day), int(second))
        if match[4] is None:
            return Entry.in_folder(path, order)
        return replace(self.entry_of(path.with_name(f"{match[1]}.pth")), order=order)

    def entry_of(self, payload: Path) -> Entry:
        """One file with its manifest beside it, or a folder."""
        if payload.parent != self.directory:
            return Entry.in_folder(payload.parent)
        return Entry((), payload, payload.with_suffix(".manifest.json"))

    def link_target(self, entry: Entry) -> str:
        """A name, so that it survives a move."""
        return entry.name


class ArtifactLayout(Layout):
    """An artifact of the ISC: folders that a saver of cycling_utils has numbered, and its link.

    Args:
        directory: of the artifact.
        saver: the name of the saver; several may share an artifact.
    """

    _name = re.compile(r"(.+?)_checkpoint_([0-9]+)(_force)?")

    def __init__(self, directory: Path, saver: str = SAVER) -> None:
        super().__init__(directory)
        self.saver = saver
        self.link_name = f"{saver}.latest_checkpoint"
        self.form = f"{saver}_checkpoint_<number>, a folder"

    @classmethod
    def saver_of(cls, name: str) -> str | None:
        """The saver that a name in an artifact tells of."""
        match = cls._name.fullmatch(name)
        if match is not None:
            return match[1]
        return name.removesuffix(".latest_checkpoint") if name.endswith(".latest_checkpoint") else None

    def entry_at(self, path: Path, is_folder: bool) -> Entry | None:
        """A folder with the saver's name and a number."""
        match = self._name.fullmatch(path.name)
        if match is None or match[1] != self.saver or not is_folder:
            return None
        return Entry.in_folder(path, (int(match[2]),))

    def entry_of(self, payload: Path) -> Entry:
        """A folder."""
        return Entry.in_folder(payload.parent)

    def link_target(self, entry: Entry) -> str:
        """Absolute, as AtomicDirectory itself writes it for the platform to read."""
        return str(entry.path)

    def outranking(self, entry: Entry, others: Sequence[Entry]) -> Entry:
        """AtomicDirectory goes by the numbers alone, and deletes what is newer than the link."""
        force = "_force" if entry.name.endswith("_force") else ""
        number = max(entry, *others).order[0] + 1
        return Entry.in_folder(self.directory / f"{self.saver}_checkpoint_{number}{force}", (number,))


def has_manifest(payload: Path) -> bool:
    """Whether this project has written it, in whatever kind of directory."""
    for manifest in (payload.with_suffix(".manifest.json"), payload.with_name(MANIFEST)):
        try:
            if payload.name in Manifest.read(manifest).files:
                return True
        except IscError:  # of a newer version of this project
            return True
        except Damaged:
            pass
    return False


def is_ours(path: Path) -> bool:
    """Whether this project has written what `Layout.foreign` has found."""
    return has_manifest(_payload_of(path))


def _payload_of(path: Path) -> Path:
    """Where it is, if `path` is a link: its manifest is beside that."""
    path = linked(path) if path.is_symlink() else path
    return path / PAYLOAD if path.is_dir() else path


def layouts(directory: Path) -> list[Layout]:
    """Those that have anything in a directory, an entry or something with the link's name; local mode first.

    Raises:
        OSError: it cannot be listed.
    """
    savers = {saver for path in directory.iterdir() if (saver := ArtifactLayout.saver_of(path.name))}
    every: list[Layout] = [LocalLayout(directory)]
    every += [ArtifactLayout(directory, saver) for saver in sorted(savers - {STARTS})]
    return [layout for layout in every if layout.entries() or os.path.lexists(layout.link)]


def foreign_in(directory: Path) -> list[Path]:
    """What looks like a checkpoint in a directory, and no start takes. Raises OSError."""
    every = [LocalLayout(directory), *layouts(directory)]
    found = [set(layout.foreign()) for layout in every]
    return sorted(set.intersection(*found))
