"""The checkpoints in a directory, as they can be told from their names and manifests: found, not changed.

Needs no torch and no ranks. What repairs, writes and deletes is in `store` and the stores above it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.checkpointing.durable import Damaged, Manifest

SAVER = "AtomicDirectory"  # the name of the saver that a training of this project uses on the ISC
LOCAL_LINK = "resume.pth"
SHARDED_PAYLOAD = "checkpoint.pt"  # in local mode only a sharded checkpoint has one, in a folder of its own
# A folder, not a name: AtomicDirectory takes what begins like a checkpoint for its own.
SET_ASIDE = "set-aside"

_LOCAL = re.compile(
    r"(checkpoint_(\d{8})-(\d{6})_(\d+))(\.pth|\.manifest\.json)?"
)  # without an ending a folder
_ARTIFACT = re.compile(r"(.+?)_checkpoint_(\d+)(_force)?")


@dataclass(frozen=True, order=True)
class Entry:
    """A checkpoint in a store, whole or not; of two the larger is the newer.

    Attributes:
        order: what the name says of its age.
        payload: the file with the state.
        manifest: the file that makes it a checkpoint.
    """

    order: tuple[int, ...]
    payload: Path
    manifest: Path

    @property
    def name(self) -> str:
        """The name that a person sees in the directory."""
        return self.path.name

    @property
    def path(self) -> Path:
        """The directory, or in local mode the file, that the store's link points to."""
        return self.payload.parent if self.manifest.name == "manifest.json" else self.payload

    @property
    def is_complete(self) -> bool:
        """Whether its save came to its end. What it holds may have been damaged since."""
        return self.manifest.is_file()

    def read_manifest(self) -> Manifest:
        """Its manifest, the payload named in it. Raises Damaged."""
        manifest = Manifest.read(self.manifest)
        if self.payload.name not in manifest.files:
            raise Damaged(f"{self.manifest.name} does not name {self.payload.name}")
        return manifest

    def verify(self) -> Manifest:
        """Its manifest, every byte of its files compared with it. Raises Damaged."""
        manifest = self.read_manifest()
        manifest.verify(self.payload.parent)
        return manifest

    def verify_sizes(self) -> Manifest:
        """Its manifest, only the sizes of its files compared with it. Raises Damaged."""
        manifest = self.read_manifest()
        manifest.verify_sizes(self.payload.parent)
        return manifest

    def parts(self) -> list[Path]:
        """The paths to move or delete, in this order: without its manifest the rest counts for nothing."""
        return [self.path] if self.path != self.payload else [self.manifest, self.payload]


def artifact_link(saver: str = SAVER) -> str:
    """The name of the link with which a saver of cycling_utils marks its latest checkpoint."""
    return f"{saver}.latest_checkpoint"


def artifact_entries(directory: Path) -> dict[str, list[Entry]]:
    """The checkpoints in an artifact of the ISC by their savers, oldest first. Raises OSError."""
    found = defaultdict(list)
    for path in directory.iterdir():
        match = _ARTIFACT.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            found[match[1]].append(Entry((int(match[2]),), path / "checkpoint.pt", path / "manifest.json"))
    return {saver: sorted(entries) for saver, entries in sorted(found.items())}


def local_entries(directory: Path) -> list[Entry]:
    """The checkpoints of local mode in a folder, oldest first. Raises OSError."""
    return sorted(set(filter(None, map(_local_entry, directory.iterdir()))))


def _local_entry(path: Path) -> Entry | None:
    """The checkpoint that a payload or a manifest belongs to: if one is gone the other tells of it."""
    match = _LOCAL.fullmatch(path.name)
    if match is None or path.is_symlink() or (match[5] is None and not path.is_dir()):
        return None
    payload = path / SHARDED_PAYLOAD if match[5] is None else path.with_name(f"{match[1]}.pth")
    return Entry((int(match[4]), int(match[2]), int(match[3])), payload, local_manifest(payload))


def local_manifest(payload: Path) -> Path:
    """Where the manifest of a payload of local mode is."""
    if payload.name == SHARDED_PAYLOAD:
        return payload.with_name("manifest.json")
    return payload.with_suffix(".manifest.json")


def linked(link: Path, entries: Sequence[Entry]) -> Entry | None:
    """The entry that a link points to, looked up by name: the directory may have been moved or copied."""
    name = link.readlink().name if link.is_symlink() else ""
    return next((entry for entry in entries if entry.name == name), None)


def first_save_was_cut_short(link: Path, entries: Sequence[Entry]) -> bool:
    """Whether all there is is what a kill in the first save leaves: one entry, no manifest, no link."""
    return len(entries) == 1 and not entries[0].is_complete and not os.path.lexists(link)


def newest_good(
    entries: Sequence[Entry], examine: Callable[[Entry], Manifest] = Entry.verify
) -> tuple[tuple[Entry, Manifest] | None, list[tuple[Entry, str]]]:
    """What a resume takes.

    Args:
        entries: oldest first.
        examine: returns an entry's manifest, or raises Damaged.

    Returns:
        The newest entry that is good, if one is, with its manifest; and the newer ones, newest first, each
        with what is wrong with it.
    """
    damaged: list[tuple[Entry, str]] = []
    for entry in reversed(entries):
        try:
            return (entry, examine(entry)), damaged
        except Damaged as reason:
            damaged.append((entry, str(reason)))
    return None, damaged
