"""Files of JSON lines that are only added to: what was rehearsed, and what was submitted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from isc_runtime.disk import sync

REHEARSALS = "rehearsals.jsonl"  # the image takes it, so that a container knows of a laptop's rehearsals
SUBMISSIONS = "submissions.jsonl"


def append(file: Path, entry: dict[str, Any]) -> None:
    """Adds a line that survives a power cut.

    Raises:
        OSError: it cannot be written.
    """
    line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # the last one was cut off
            line = b"\n" + line
        os.write(descriptor, line)
        sync(descriptor)
    finally:
        os.close(descriptor)


def entries(file: Path) -> list[dict[str, Any]]:
    """All lines that can be read, the oldest first; none without the file."""
    try:
        lines = file.read_bytes().splitlines() if file.is_file() else []  # a pipe would be waited for
    except OSError:
        return []
    return [entry for line in lines if isinstance(entry := _parsed(line), dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
