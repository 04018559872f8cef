"""Is the lock in step with what the project asks for, and does everything have a version that cannot move?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.submission.finding import Finding
from isc_runtime.submission.lines import logical_lines

NEEDED, LOCK, COMMIT = "requirements.in", "requirements.lock", "requirements-cycling-utils.txt"

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:==\s*([^\s;,\\]+))?")


def check_lock(root: Path) -> Iterator[Finding]:
    locked: dict[str, set[str]] = {}  # several versions, each for some versions of Python
    for number, line in logical_lines(root / LOCK):
        match = _REQUIREMENT.match(line)
        if match is None:
            continue  # an option of pip
        where = f"{LOCK}:{number}"
        locked.setdefault(normalized(match[1]), set()).add(match[2] or "unpinned")
        if not match[2] or "--hash=sha256:" not in line:
            yield Finding(where, f"{match[1]} has no exact version or no hash", "Run: make lock")
    for number, line in logical_lines(root / NEEDED):
        match = _REQUIREMENT.match(line)
        if match is None or not locked:
            continue
        where, versions = f"{NEEDED}:{number}", locked.get(normalized(match[1]))
        if versions is None and ";" not in line:  # with a condition: it may not hold where the lock is for
            yield Finding(where, f"{match[1]} is not in {LOCK}", "Run: make lock")
        elif versions is not None and match[2] is not None and match[2] not in versions:
            what = f"{match[1]} is {match[2]} here, but {' or '.join(sorted(versions))} in {LOCK}"
            yield Finding(where, what, "Run: make lock")


def check_cycling_utils(file: Path) -> Iterator[Finding]:
    for number, line in logical_lines(file):
        if "git+" in line and not re.search(r"@[0-9a-f]{40}\b", line):
            hint = (
                "Write @ and the 40 digits of a commit after the address: a branch moves, a commit does not."
            )
            yield Finding(f"{file.name}:{number}", "It does not name a full commit", hint)


def required_names(root: Path, *files: str) -> set[str]:
    """The distributions that requirement files name, as `normalized` writes them.

    Args:
        root: the project.
        files: their names; one that cannot be read names nothing.
    """
    lines = (line for name in files for _, line in logical_lines(root / name))
    return {normalized(match[1]) for line in lines if (match := _REQUIREMENT.match(line))}


def unconditional_names(root: Path, file: str) -> set[str]:
    """Those of one file that are needed everywhere: without `; python_version < "3.11"` or the like."""
    lines = (line for _, line in logical_lines(root / file) if ";" not in line)
    return {normalized(match[1]) for line in lines if (match := _REQUIREMENT.match(line))}


def normalized(name: str) -> str:
    """A distribution's name as all its spellings are compared:
    https://packaging.python.org/en/latest/specifications/name-normalization
    """
    return re.sub(r"[-_.]+", "-", name).lower()
