"""An inventory of checkpoints in words, for people, and in JSON, for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from isc_runtime.checkpointing.on_disk.inventory import Checkpoint, Inventory, State
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.errors import ExitCode
from isc_runtime.printable import printable
from isc_runtime.sizes import readable_size

MEANINGS: dict[State, str] = {
    "verified": "every byte of its files was compared with the checksums in its manifest",
    "whole": "its files are there with their sizes; their content was not read",
    "damaged": "it is not as it was saved; no resume takes it",
    "foreign": "another program wrote it; python -m isc_runtime import makes one of this project's of it",
}
MEANING_OF_FOREIGN = (
    "No resume takes these: python -m isc_runtime import makes a checkpoint of this project's of one."
)
MEANING_OF_MISPLACED = (
    "No resume takes what lies in another folder or has another name: move it where it was saved."
)
STUCK = "A resume stops with an error."
SECONDS = 5.0  # between two words of the progress


class ProgressLine:
    """Says on the standard error, every few seconds, how far the reading of checkpoints is."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, name: str, compared: int, total: int) -> None:
        """Of this checkpoint so many bytes of so many have been compared with their checksums."""
        if time.monotonic() - self._said >= SECONDS:
            self._said = time.monotonic()
            read = f"{readable_size(compared)} of {readable_size(total)}"
            print(f"{printable(name)}: {read} read", file=sys.stderr, flush=True)


def report(inventory: Inventory, as_json: bool) -> int:
    """Prints an inventory, and returns the exit code: CHECKPOINT if a resume would stop with an error."""
    if as_json:
        print(json.dumps(asdict(inventory), indent=2))
    else:
        print("\n".join(map(printable, _lines(inventory))))  # names may be a stranger's
    return ExitCode.CHECKPOINT if inventory.is_stuck else ExitCode.COMPLETED


def _lines(inventory: Inventory) -> Iterator[str]:
    if not inventory.series and not inventory.set_aside and not inventory.foreign:
        yield f"No checkpoints in {inventory.directory}."
    for series in inventory.series:
        yield f"{inventory.directory}, {series.saver}:"
        yield from _table(series.checkpoints)
        yield series.outlook
    if inventory.set_aside:
        yield f"Set aside by earlier runs, in {SET_ASIDE}/; no resume takes these:"
        yield from _table(inventory.set_aside)
    if inventory.foreign:
        others = [not one.is_ours for one in inventory.foreign]
        yield f"{inventory.directory}, {'written by other programs' if all(others) else 'besides'}:"
        for one in inventory.foreign:
            name = Path(one.path).relative_to(inventory.directory)
            yield f"  {name}  {readable_size(one.bytes)}  {one}"
        meanings = [MEANING_OF_FOREIGN] * any(others) + [MEANING_OF_MISPLACED] * (not all(others))
        yield " ".join([*([] if inventory.series else [STUCK]), *meanings])
    every = [*inventory.set_aside, *(one for series in inventory.series for one in series.checkpoints)]
    for state, meaning in MEANINGS.items():
        if any(checkpoint.state == state for checkpoint in every):
            yield f"{state}: {meaning}."


def _table(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("step", "epoch", "batch", "ranks", "saved (UTC)", "size", "state", "")]
    rows += [_row(checkpoint) for checkpoint in checkpoints]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if checkpoints else []:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(checkpoint: Checkpoint) -> tuple[str, ...]:
    numbers = (checkpoint.step, checkpoint.epoch, checkpoint.batch, checkpoint.ranks)
    marks = {"latest": checkpoint.is_latest, "next": checkpoint.is_next}
    notes = [f"<- {', '.join(name for name, holds in marks.items() if holds)}"] if any(marks.values()) else []
    return (
        *("-" if number is None else str(number) for number in numbers),
        (checkpoint.time or "-").replace("T", " ").removesuffix("+00:00"),
        readable_size(checkpoint.bytes),
        checkpoint.state,
        " ".join(
            [Path(checkpoint.path).name, *notes, *([f"({checkpoint.reason})"] if checkpoint.reason else [])]
        ),
    )
