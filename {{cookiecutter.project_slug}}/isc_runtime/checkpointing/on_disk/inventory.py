"""What a directory holds of checkpoints, and which one a resume would take. It only reads.

The directory may be local mode's, an artifact of the ISC, or an artifact's copy on a workstation, in which
the absolute link of cycling_utils points to nowhere: links are looked up by the name of their target. Several
savers may share an artifact. No torch is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.foreign import Foreign, described, is_foreign
from isc_runtime.checkpointing.on_disk.layout import (
    LOCAL,
    SAVER,
    SET_ASIDE,
    Layout,
    foreign_in,
    is_ours,
    layouts,
)
from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest
from isc_runtime.checkpointing.on_disk.untrusted import plain_size
from isc_runtime.checkpointing.on_disk.verification import verified
from isc_runtime.errors import IscError

State = Literal["verified", "whole", "damaged", "foreign"]
Result = Manifest | Damaged | IscError  # of looking at a checkpoint
Say = Callable[[str, int, int], None]  # of this checkpoint so many bytes of so many have been compared


def unsaid(_name: str, _compared: int, _total: int) -> None:
    """For whoever does not want to know of the progress."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, as a person wants to know it.

    Attributes:
        path: its directory, or in local mode its file.
        saver: who saves there: LOCAL, or the name of a saver of cycling_utils.
        state: "verified": every byte of its files was compared with the checksums in its manifest, and is as
            it was saved. "whole": all files are there with their sizes, their content was not read.
            "damaged": a resume does not take it, nor "foreign": another program wrote it.
        reason: why it is damaged, or what a foreign one is.
        bytes: what its files take on the disk now.
        step: optimizer steps taken; None, like the next four, if its manifest cannot be read.
        epoch: whole epochs trained.
        batch: batches of the epoch begun.
        ranks: how many saved it.
        time: when it was saved, ISO 8601, UTC.
        is_latest: whether the saver's link points to it.
        is_next: whether a resume takes it.
        is_set_aside: whether a run has moved it out of the way.
    """

    path: str
    saver: str
    state: State
    reason: str
    bytes: int
    step: int | None = None
    epoch: int | None = None
    batch: int | None = None
    ranks: int | None = None
    time: str | None = None
    is_latest: bool = False
    is_next: bool = False
    is_set_aside: bool = False


@dataclass(frozen=True)
class Series:
    """The checkpoints of one saver in one directory, and what a training does that starts there.

    Attributes:
        saver: LOCAL, or the name of a saver of cycling_utils.
        checkpoints: oldest first.
        outlook: what a resume would do, as a sentence.
        is_stuck: whether it would stop with an error.
    """

    saver: str
    checkpoints: list[Checkpoint]
    outlook: str
    is_stuck: bool


@dataclass(frozen=True)
class Inventory:
    """All of a directory.

    Attributes:
        directory: which one.
        series: of each saver, local mode first.
        set_aside: what runs have moved out of the way, oldest first.
        foreign: what another program has written, or lies where no start looks, besides what has the place of
            a checkpoint in a series.
    """

    directory: str
    series: list[Series]
    set_aside: list[Checkpoint]
    foreign: list[Foreign]

    @property
    def is_stuck(self) -> bool:
        """Whether a training that starts here would stop with an error."""
        return any(series.is_stuck for series in self.series) or bool(self.foreign and not self.series)


def take_inventory(directory: Path, verify: bool = False, progress: Say = unsaid) -> Inventory:
    """Looks at all checkpoints in a directory.

    Args:
        directory: where they are.
        verify: read every byte, instead of looking at manifests and sizes alone.
        progress: is told, while every byte of a checkpoint is read, of which one how many have been read.

    Raises:
        IscError: it is no directory, or cannot be read.
    """
    directory = directory.absolute()

    def examine(entry: Entry) -> Result:
        try:
            return entry.verify_sizes() if not verify else verified(entry, partial(progress, entry.name))
        except (Damaged, IscError) as error:
            return error

    try:
        found = layouts(directory)
        strangers = foreign_in(directory)
        aside = [layout for folder in _folders(directory / SET_ASIDE) for layout in layouts(folder)]
    except NotADirectoryError:
        raise IscError(
            "This is a file", directory, "Name the directory that holds the checkpoints."
        ) from None
    except FileNotFoundError:
        hint = "Name the directory that holds the checkpoints: ./checkpoints in local mode, or an artifact."
        raise IscError("There is no such directory", directory, hint) from None
    except OSError as error:
        raise IscError(
            f"It cannot be read ({error.strerror})", directory, "Look at its permissions."
        ) from None
    series = [_series(layout, examine, verify) for layout in found]
    if any(checkpoint.is_next for one in series for checkpoint in one.checkpoints):
        series = [_left_alone(one) if _is_other_program(one) else one for one in series]
    moved = [
        _described(entry, layout.saver, examine(entry), verify, is_set_aside=True)
        for layout in aside
        for entry in layout.entries()
    ]
    listed = {entry.payload for layout in found for entry in layout.entries()}
    others = [replace(described(path), is_ours=is_ours(path)) for path in strangers if path not in listed]
    return Inventory(str(directory), series, moved, others)


def _is_other_program(series: Series) -> bool:
    """Whether these are the checkpoints of a saver that no training of this project has."""
    is_foreign = all(checkpoint.state == "foreign" for checkpoint in series.checkpoints)
    return is_foreign and series.saver not in (LOCAL, SAVER)


def _left_alone(series: Series) -> Series:
    return replace(series, outlook="No resume looks at these: it goes on from another one.", is_stuck=False)


def _folders(directory: Path) -> list[Path]:
    """The folders in one, links left out: they may lead anywhere."""
    if directory.is_symlink() or not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())


def _series(layout: Layout, examine: Callable[[Entry], Result], verify: bool) -> Series:
    """Examines each entry once; then the rule by which a resume chooses is asked what it makes of that."""
    entries = layout.entries()
    found = {entry: examine(entry) for entry in entries}
    chosen, outlook, is_stuck = None, "", True
    try:
        resume = layout.resume(entries, lambda entry: _manifest_or_raise(found[entry]))
    except IscError as error:
        outlook = f"A resume stops with an error: {error}"
    else:
        chosen, is_stuck = resume.chosen, resume.chosen is None and not resume.begins
        if is_stuck:
            outlook = f"A resume stops with an error: none of them can be used ({resume.obstacle})."
        elif chosen is None:
            outlook = "A resume starts at step 0: the first save was cut short."
        else:
            outlook = f"A resume takes {chosen[0].name}, step {chosen[1].step}"
            outlook += "." if verify else ", if its content is as it was saved: --verify reads it."
    latest, next_one = layout.latest(entries), chosen and chosen[0]
    checkpoints = [
        replace(
            _described(entry, layout.saver, found[entry], verify),
            is_latest=entry == latest,
            is_next=entry == next_one,
        )
        for entry in entries
    ]
    return Series(layout.saver, checkpoints, outlook, is_stuck)


def _manifest_or_raise(result: Result) -> Manifest:
    if isinstance(result, Exception):
        raise result
    return result


def _described(
    entry: Entry, saver: str, result: Result, verify: bool, is_set_aside: bool = False
) -> Checkpoint:
    is_good = isinstance(result, Manifest)
    manifest = result if isinstance(result, Manifest) else _manifest_if_any(entry)
    details = manifest.details if manifest is not None else {}
    if manifest is None and is_foreign(entry.payload):
        stranger = described(entry.payload)
        return Checkpoint(str(entry.path), saver, "foreign", str(stranger), stranger.bytes)
    return Checkpoint(
        path=str(entry.path),
        saver=saver,
        state=("verified" if verify else "whole") if is_good else "damaged",
        reason="" if is_good else str(result),
        bytes=_size_on_disk(entry),
        step=None if manifest is None else manifest.step,
        epoch=details.get("epoch"),
        batch=details.get("batch"),
        ranks=details.get("world_size"),
        time=None if manifest is None else manifest.time,
        is_set_aside=is_set_aside,
    )


def _manifest_if_any(entry: Entry) -> Manifest | None:
    try:
        return Manifest.read(entry.manifest)
    except (Damaged, IscError):
        return None


def _size_on_disk(entry: Entry) -> int:
    """Bytes of all its plain files, named in the manifest or not; what vanishes meanwhile counts nothing."""
    total = 0
    for part in entry.parts():
        for file in [part, *(part.rglob("*") if part.is_dir() and not part.is_symlink() else ())]:
            with contextlib.suppress(OSError):
                total += plain_size(file)
    return total
