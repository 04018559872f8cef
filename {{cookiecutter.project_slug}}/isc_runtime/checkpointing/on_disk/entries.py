"""A checkpoint as its name and its manifest tell of it: found, not changed.

Needs no torch and no ranks. Where checkpoints are is in `layout`; what repairs, writes and deletes is in
`store` and the stores above it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest, Progress, unheard

PAYLOAD, MANIFEST = "checkpoint.pt", "manifest.json"  # of a checkpoint that is a folder


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

    @classmethod
    def in_folder(cls, folder: Path, order: tuple[int, ...] = ()) -> Entry:
        """The checkpoint that is a folder with all its files."""
        return cls(order, folder / PAYLOAD, folder / MANIFEST)

    @property
    def name(self) -> str:
        """The name that a person sees in the directory."""
        return self.path.name

    @property
    def path(self) -> Path:
        """The directory, or in local mode the file, that the store's link points to."""
        return self.payload.parent if self.manifest.name == MANIFEST else self.payload

    @property
    def is_complete(self) -> bool:
        """Whether its save came to its end. What it holds, the manifest too, may have been damaged since."""
        return os.path.lexists(self.manifest)

    def read_manifest(self) -> Manifest:
        """Its manifest, the payload named in it. Raises Damaged."""
        manifest = Manifest.read(self.manifest)
        if self.payload.name not in manifest.files:
            raise Damaged(f"{self.manifest.name} does not name {self.payload.name}")
        return manifest

    def verify(self, progress: Progress = unheard) -> Manifest:
        """Its manifest, every byte of its files compared with it.

        Args:
            progress: called after each megabyte with how many bytes of how many have been compared.

        Raises:
            Damaged: something is not as it was saved.
        """
        manifest = self.read_manifest()
        manifest.verify(self.payload.parent, progress)
        return manifest

    def verify_sizes(self) -> Manifest:
        """Its manifest, only the sizes of its files compared with it. Raises Damaged."""
        manifest = self.read_manifest()
        manifest.verify_sizes(self.payload.parent)
        return manifest

    def parts(self) -> list[Path]:
        """The paths to move or delete, in this order: without its manifest the rest counts for nothing."""
        return [self.path] if self.path != self.payload else [self.manifest, self.payload]


@dataclass(frozen=True)
class Resume:
    """What a resume makes of the checkpoints in a directory.

    Attributes:
        chosen: the newest one that is good, with its manifest; None if there is none.
        damaged: those that are newer, newest first, each with what is wrong with it.
        begins: whether the training starts at step 0: there never was a whole checkpoint here.
        obstacle: why it cannot go on, in words, if it neither begins nor has chosen one.
        foreign: what another program has written, or lies where no start looks, if that is the obstacle.
    """

    chosen: tuple[Entry, Manifest] | None
    damaged: list[tuple[Entry, str]]
    begins: bool = False
    obstacle: str = ""
    foreign: list[Path] = field(default_factory=list)


Examine = Callable[[Entry], Manifest]  # returns an entry's manifest, or raises Damaged


def newest_good(entries: Sequence[Entry], examine: Examine = Entry.verify) -> Resume:
    """The newest entry that is good, if one is, and the newer ones.

    Args:
        entries: oldest first.
        examine: says which is good.

    Raises:
        IscError: of `examine`: the newest was written by a newer version of this project.
    """
    damaged: list[tuple[Entry, str]] = []
    for entry in reversed(entries):
        try:
            return Resume((entry, examine(entry)), damaged)
        except Damaged as reason:
            damaged.append((entry, str(reason)))
    return Resume(None, damaged)
