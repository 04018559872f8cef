"""Files of lines: requirements, Dockerfiles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.text_files import read_text


def logical_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines without comments and blank ones, joined where they end in a backslash, and their numbers."""
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError):
        return  # missing: it is said already
    start, joined = 0, ""
    for number, line in enumerate(lines, 1):
        text = re.sub(r"(^|\s)#.*", "", line).strip() if "#" in line else line.strip()
        if not text:
            continue
        start = start if joined else number
        joined += text.removesuffix("\\") + " "
        if not text.endswith("\\"):
            yield start, joined.strip()
            joined = ""
    if joined:
        yield start, joined.strip()
