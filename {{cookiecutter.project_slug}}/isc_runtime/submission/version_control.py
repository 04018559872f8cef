"""Is what would be submitted known to git, so that a result can be traced back to its code?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.submission.finding import Finding

SHOWN = 3
SECONDS = 5


def check_committed(root: Path) -> Iterator[Finding]:
    """A warning if files of the project are not committed; none without git or outside a repository."""
    # It must not wait for, or take, the lock of somebody's `git add`.
    command = ["git", "--no-optional-locks", "status", "--porcelain", "-z", "--no-renames", "--", "."]
    try:
        ended = subprocess.run(command, cwd=root, capture_output=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    entries = ended.stdout.decode(errors="backslashreplace").split("\0")
    changed = [entry[3:] for entry in entries if entry] if ended.returncode == 0 else []
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        what = f"Not committed: {', '.join(changed[:SHOWN])}{more}"
        hint = "Commit, so that the code of this experiment can be found again: git add --all && git commit"
        yield Finding("git", what, hint, "warning")
