"""Of checkpoints go those that newer ones make superfluous: not the best, not anchors, nothing unreadable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest
from isc_runtime.checkpointing.stores.keeping import superfluous


class Saved:
    """An entry with these details; without any its manifest cannot be read."""

    def __init__(self, name: str, details: dict[str, Any] | None) -> None:
        self.path = Path(name)
        self.details = details

    def read_manifest(self) -> Manifest:
        if self.details is None:
            raise Damaged("manifest.json is missing")
        return Manifest(1, "", self.details, {})


USUAL: dict[str, Any] = {"force": False, "anchor": False}
BEST: dict[str, Any] = {"force": True, "anchor": False}
ANCHOR: dict[str, Any] = {"force": True, "anchor": True}
OLD: dict[str, Any] = {"force": True}  # of version 0.1.0, which knew no anchors
ALL = {"a": OLD, "b": BEST, "c": USUAL, "d": ANCHOR, "e": BEST, "f": USUAL, "g": None, "h": USUAL, "i": USUAL}


def gone(keep: int, keep_best: int = 1, immovable: Iterable[str] = (), newest: str | None = None) -> str:
    entries = cast("list[Entry]", [Saved(name, details) for name, details in ALL.items()])
    published = next((entry for entry in entries if str(entry.path) == newest), None)
    found = superfluous(entries, keep, keep_best, {Path(name) for name in immovable}, published)
    return "".join(sorted(str(entry.path) for entry in found))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"keep": 0}, ""),
        ({"keep": 1}, "bcfh"),
        ({"keep": 2, "keep_best": 2}, "cf"),
        ({"keep": 9, "keep_best": 9}, ""),
        ({"keep": 1, "keep_best": 3}, "cfh"),
        ({"keep": 1, "immovable": ["i"]}, "bcf"),
        ({"keep": 1, "newest": "c"}, "bfh"),
    ],
    ids=str,
)
def test_what_is_superfluous(given: dict[str, Any], expected: str) -> None:
    assert gone(**given) == expected
