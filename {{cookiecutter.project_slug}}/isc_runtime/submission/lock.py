"""Is the lock in step with what the project asks for, and does everything have a version that cannot move?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.submission.finding import Finding
from isc_runtime.submission.lines import logical_lines

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:==\s*([^\s;,\\]+))?")


def check_lock(root: Path) -> Iterator[Finding]:
    locked: dict[str, str] = {}
    for number, line in logical_lines(root / "requirements.lock"):
        match = _REQUIREMENT.match(line)
        if match is None:
            continue  # an option of pip
        where = f"requirements.lock:{number}"
        locked[_normalized(match[1])] = match[2] or ""
        if not match[2] or "--hash=sha256:" not in line:
            yield Finding(where, f"{match[1]} has no exact version or no hash", "Run: make lock")
    for number, line in logical_lines(root / "requirements.in"):
        match = _REQUIREMENT.match(line)
        if match is None or not locked:
            continue
        where, version = f"requirements.in:{number}", locked.get(_normalized(match[1]))
        if version is None and ";" not in line:  # with a condition: it may not hold where the lock is for
            yield Finding(where, f"{match[1]} is not in requirements.lock", "Run: make lock")
        elif version is not None and match[2] not in (None, version):
            what = f"{match[1]} is {match[2]} here, but {version or 'unpinned'} in requirements.lock"
            yield Finding(where, what, "Run: make lock")


def check_cycling_utils(file: Path) -> Iterator[Finding]:
    for number, line in logical_lines(file):
        if "git+" in line and not re.search(r"@[0-9a-f]{40}\b", line):
            hint = (
                "Write @ and the 40 digits of a commit after the address: a branch moves, a commit does not."
            )
            yield Finding(f"{file.name}:{number}", "It does not name a full commit", hint)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
