"""Which checkpoints newer ones have made superfluous."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import Damaged
from isc_runtime.errors import IscError


def superfluous(
    entries: Iterable[Entry], keep: int, keep_best: int, immovable: Collection[Path], newest: Entry | None
) -> list[Entry]:
    """What may be deleted: all but the newest, those that were the best when they were saved, and anchors.

    Args:
        entries: all that there are, the oldest first.
        keep: so many of the newest are kept; 0 keeps all.
        keep_best: so many of those that were the best.
        immovable: the paths of damaged ones: they may have the highest step and are no good.
        newest: what this run has published last, which is kept in any case.
    """
    if not keep:
        return []
    usual: list[Entry] = []
    best: list[Entry] = []
    for entry in entries:
        if entry.path in immovable:
            continue
        with contextlib.suppress(Damaged, IscError):
            details = entry.read_manifest().details
            is_forced = bool(details.get("force"))
            if not details.get("anchor", is_forced):  # what is forced by an old version is kept
                (best if is_forced else usual).append(entry)
    kept = [*usual[-keep:], *best[max(0, len(best) - keep_best) :], newest]
    paths = {one.path for one in kept if one is not None}
    return [entry for entry in [*usual, *best] if entry.path not in paths]
