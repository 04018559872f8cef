"""The rows of a run in a file: JSON, one a line, the first of which is the run's id."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from isc_runtime.tracking.tracker import Seen

Row = tuple[dict[str, float], int]  # values by name, and the step


class Rows:
    """What a tracker has noted, kept where a kill does not reach it.

    Args:
        file: which only grows; it is made if it does not exist.

    Attributes:
        run_id: of the run that they are of.
    """

    def __init__(self, file: Path) -> None:
        self.run_id = ""
        self._path = file
        self._file: FileIO | None = None
        self._seen = Seen({})

    def open(self, step: int, run_id: str) -> list[Row]:
        """The rows that are there. What is not a whole line, from a full disk, is taken away.

        Args:
            step: that the training goes on from. What was noted beyond it comes again, perhaps with other
                values (another learning rate, other ranks), and is taken away. After 0 the run is new.
            run_id: for a new run.
        """
        self.close()
        lines = _whole_lines(self._path) if step and self._path.exists() else []
        rows = [(dict(line["values"]), int(line["step"])) for line in lines[1:] if line["step"] <= step]
        if len(rows) < len(lines) - 1:
            _replace(self._path, [lines[0], *({"step": at, "values": values} for values, at in rows)])
        self.run_id = str(lines[0]["id"]) if lines else run_id
        self._seen = Seen({})
        for values, step in rows:
            self._seen.new(values, step)
        self._file = FileIO(self._path, "a" if lines else "w")  # no buffer: in the page cache at once
        if not lines:
            self._write({"id": run_id})
        return rows

    def add(self, values: Mapping[str, float], step: int) -> dict[str, float]:
        """Adds a row. Returns those of its values that were not there. Raises OSError."""
        if new := self._seen.new(values, step):
            self._write({"step": step, "values": new})
        return new

    def _write(self, line: Mapping[str, Any]) -> None:
        content = _as_bytes(line)
        if self._file is not None and self._file.write(content) != len(content):
            raise OSError(f"no room for another line in {self._path}")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _as_bytes(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _replace(file: Path, lines: list[Mapping[str, Any]]) -> None:
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_bytes(b"".join(map(_as_bytes, lines)))
    unfinished.replace(file)


def _whole_lines(file: Path) -> list[Any]:
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(file, len(whole))
    return [json.loads(line) for line in whole.splitlines()]
