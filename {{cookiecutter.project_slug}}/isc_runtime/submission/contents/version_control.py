"""What git says: is what would be submitted known to it, so that a result can be traced back to its code?"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.printable import listed
from isc_runtime.submission.finding import Finding

SECONDS = 20
# Set below a git hook, or in a linked worktree's: they would name its repository, wherever this project is.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


@dataclass(frozen=True)
class GitFiles:
    """The files of a project, as git sees them; none without git or outside a repository.

    Attributes:
        tracked: what git has, staged or committed.
        untracked: what `git add --all` would take.
    """

    tracked: frozenset[str] = frozenset()
    untracked: frozenset[str] = frozenset()

    @functools.cached_property
    def all(self) -> frozenset[str]:
        """What a clone has, once all is committed; nothing where git does not look after the project."""
        return self.tracked | self.untracked


def ask_git(root: Path, *arguments: str) -> str | None:
    """What git says in a project's folder; None if it says nothing, in time, or there is no git."""
    # It must not wait for, or take, the lock of somebody's `git add`.
    command = ["git", "--no-optional-locks", *arguments]
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    try:
        ended = subprocess.run(command, cwd=root, env=own, capture_output=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(ended.stdout) if ended.returncode == 0 else None


def files_of_git(root: Path) -> GitFiles:
    """The files of a project that git has, or would take."""
    tracked = ask_git(root, "ls-files", "-z", "--cached", "--", ".")
    untracked = ask_git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", ".")
    return GitFiles(*(frozenset((paths or "").split("\0")) - {""} for paths in (tracked, untracked)))


def ignoring_rule(root: Path, path: str) -> str:
    """The rule by which git ignores a path, and where it is: `.gitignore:3:build/`; "" if there is none."""
    return (ask_git(root, "check-ignore", "--verbose", "--", path) or "").partition("\t")[0]


def changed_files(root: Path) -> list[str] | None:
    """The files of a project that are not committed as they are; None if git says nothing."""
    said = ask_git(root, "status", "--porcelain", "-z", "--no-renames", "--", ".")
    return None if said is None else [entry[3:] for entry in said.split("\0") if entry]


def check_committed(root: Path, has_secrets: bool = False) -> Iterator[Finding]:
    """A warning if files of the project are not committed; none without git or outside a repository.

    Args:
        root: the project.
        has_secrets: whether something lies there that must not be committed.
    """
    changed = changed_files(root) or []
    if changed:
        names = listed([name.encode(errors="backslashreplace").decode() for name in changed], 3)
        hint = "Commit, so that the code of this experiment can be found again"
        hint += ", but not before the secrets are out." if has_secrets else ": git add --all && git commit"
        yield Finding("git", f"Not committed: {names}", hint, "warning")
