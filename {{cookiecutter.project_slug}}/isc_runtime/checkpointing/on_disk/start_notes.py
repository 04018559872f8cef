"""What the starts of a training have noted: from which checkpoint, how often, and how far the last one came.

In a folder a hidden file. In an artifact of the ISC a plain file is not promised to ship, so there it lies in
a directory that a link names, as those of savers are. It is no checkpoint, and nobody takes it for one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from isc_runtime.checkpointing.on_disk.untrusted import is_count, is_seconds, parse, read_plain

SAVER = "starts"  # as if it were one of cycling_utils'
FOLDER, LINK = f"{SAVER}_checkpoint_0", f"{SAVER}.latest_checkpoint"
FILE, LOCAL_FILE = "starts.json", ".isc-starts.json"
LARGEST = 2**16  # bytes
BEGINNING = "step 0"


@dataclass(frozen=True)
class Start:
    """How far a start came, as it noted again and again until it had saved. Times in seconds.

    Attributes:
        mtbf: between two interruptions, as it was told.
        seen: from its beginning to its last sign of life.
        started: from its beginning to the end of its first batch; 0 if it came to none.
        batches: that it finished.
        failed: saves that failed.
        is_saving: whether a save was on its way.
        is_evaluating: whether it was in an evaluation.
    """

    mtbf: float = 0.0
    seen: float = 0.0
    started: float = 0.0
    batches: int = 0
    failed: int = 0
    is_saving: bool = False
    is_evaluating: bool = False


@dataclass(frozen=True)
class StartNotes:
    """The starts in a row from one position.

    Attributes:
        position: which checkpoint they went on from, in words that no other one has.
        count: how many there were.
        last: how far the last one came.
    """

    position: str
    count: int
    last: Start

    @classmethod
    def read(cls, path: Path) -> StartNotes | None:
        """What is noted there; None if nothing is, or what no start has written."""
        try:
            content = parse(read_plain(path, LARGEST))
            notes = cls(content["position"], content["count"], Start(**content["last"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return notes if notes._is_possible() else None

    def _is_possible(self) -> bool:
        return isinstance(self.position, str) and is_count(self.count) and _is_start(vars(self.last))

    def content(self) -> bytes:
        """What `read` reads."""
        return json.dumps(asdict(self)).encode()


def _is_start(values: dict[str, Any]) -> bool:
    kinds: dict[str, Callable[[object], bool]] = {"float": is_seconds, "int": is_count, "bool": _is_flag}
    return all(kinds[str(field.type)](values[field.name]) for field in fields(Start))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)
