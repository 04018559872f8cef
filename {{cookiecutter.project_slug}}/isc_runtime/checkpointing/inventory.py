"""What a directory holds of checkpoints, and which one a resume would take. It only reads.

The directory may be local mode's, an artifact of the ISC, or an artifact's copy on a workstation, in which
the absolute link of cycling_utils points to nowhere: links are looked up by the name of their target. Several
savers may share an artifact. No torch is needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from isc_runtime.checkpointing.durable import Damaged, Manifest
from isc_runtime.checkpointing.entries import (
    LOCAL_LINK,
    SET_ASIDE,
    Entry,
    artifact_entries,
    artifact_link,
    first_save_was_cut_short,
    linked,
    local_entries,
    newest_good,
)
from isc_runtime.errors import IscError

LOCAL = "local mode"

State = Literal["verified", "whole", "damaged"]


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, as a person wants to know it.

    Attributes:
        path: its directory, or in local mode its file.
        saver: who saves there: LOCAL, or the name of a saver of cycling_utils.
        state: "verified": every byte is as it was saved. "whole": all files are there with their sizes, their
            content was not read. "damaged": a resume does not take it.
        reason: why it is damaged.
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
    """

    directory: str
    series: list[Series]
    set_aside: list[Checkpoint]


def take_inventory(directory: Path, verify: bool = False) -> Inventory:
    """Looks at all checkpoints in a directory.

    Args:
        directory: where they are.
        verify: read every byte, instead of looking at manifests and sizes alone.

    Raises:
        IscError: it is no directory, or cannot be read.
    """
    directory = directory.absolute()
    try:
        groups = _groups(directory)
        aside = [entry for folder in _folders(directory / SET_ASIDE) for entry in _groups(folder)]
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
    series = [_series(saver, directory / link, entries, verify) for saver, link, entries in groups]
    moved = [
        _described(entry, saver, _examine(entry, verify), verify, is_set_aside=True)
        for saver, _, entries in aside
        for entry in entries
    ]
    return Inventory(str(directory), series, moved)


def _groups(directory: Path) -> list[tuple[str, str, list[Entry]]]:
    """The savers that have anything here, checkpoints or a link: name, link, entries. Raises OSError."""
    artifacts = artifact_entries(directory)
    suffix = artifact_link("")
    for path in directory.iterdir():
        if path.name.endswith(suffix) and path.is_symlink():
            artifacts.setdefault(path.name.removesuffix(suffix), [])
    groups = [(LOCAL, LOCAL_LINK, local_entries(directory))]
    groups += [(saver, artifact_link(saver), entries) for saver, entries in sorted(artifacts.items())]
    return [group for group in groups if group[2] or os.path.lexists(directory / group[1])]


def _folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def _series(saver: str, link: Path, entries: Sequence[Entry], verify: bool) -> Series:
    """Examines each entry once; then the rule by which a resume chooses is asked what it makes of that."""
    found = {entry: _examine(entry, verify) for entry in entries}
    chosen, outlook, is_stuck = None, "", False
    try:
        chosen, _ = newest_good(entries, lambda entry: _manifest_or_raise(found[entry]))
    except IscError as error:
        outlook, is_stuck = f"A resume stops with an error: {error}", True
    if chosen is not None:
        outlook = f"A resume takes {chosen[0].name}, step {chosen[1].step}"
        outlook += "." if verify else ", if its content is as it was saved: --verify reads it."
    elif first_save_was_cut_short(link, entries):
        outlook = "A resume starts at step 0: the first save was cut short."
    elif not is_stuck:
        outlook = "A resume stops with an error: there were checkpoints, and none of them can be used."
        is_stuck = True
    latest, next_one = linked(link, entries), chosen and chosen[0]
    checkpoints = [
        replace(
            _described(entry, saver, found[entry], verify),
            is_latest=entry == latest,
            is_next=entry == next_one,
        )
        for entry in entries
    ]
    return Series(saver, checkpoints, outlook, is_stuck)


def _examine(entry: Entry, verify: bool) -> Manifest | Damaged | IscError:
    try:
        return entry.verify() if verify else entry.verify_sizes()
    except (Damaged, IscError) as error:
        return error


def _manifest_or_raise(result: Manifest | Damaged | IscError) -> Manifest:
    if isinstance(result, Exception):
        raise result
    return result


def _described(
    entry: Entry, saver: str, result: Manifest | Damaged | IscError, verify: bool, is_set_aside: bool = False
) -> Checkpoint:
    is_good = isinstance(result, Manifest)
    manifest = result if isinstance(result, Manifest) else _manifest_if_any(entry)
    details = manifest.details if manifest is not None else {}
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
    """Bytes of all its files, named in the manifest or not; what vanishes meanwhile counts nothing."""
    total = 0
    for part in entry.parts():
        for file in [part, *part.rglob("*")]:
            with contextlib.suppress(OSError):
                total += file.stat().st_size if file.is_file() else 0
    return total
