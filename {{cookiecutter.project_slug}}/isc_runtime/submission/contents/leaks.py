"""Secrets that git or the image would take with them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.sizes import readable_size
from isc_runtime.submission.contents.credentials import ALLOWED, find_token, has_secret_name, is_public
from isc_runtime.submission.contents.image import Content
from isc_runtime.submission.contents.version_control import GitFiles
from isc_runtime.submission.finding import Finding

MOST_READ = 2**30  # bytes of all files: some 20 seconds


def check_leaks(root: Path, image: Content, git: GitFiles) -> list[Finding]:
    """An error for each file with a secret that git has, that `git add` would take, or that the image would.

    Args:
        root: the project.
        image: what the image takes from it.
        git: what git has or would take.
    """
    paths = {*image.files, *git.tracked, *git.untracked}
    findings: dict[str, Finding] = {}
    unread = MOST_READ
    # Secrets are in small files: those come first, in case that there is too much to read.
    sizes = {path: _size(root / path) for path in paths}
    for path in sorted(paths, key=lambda path: (sizes[path], path)):
        if has_secret_name(path) and not is_public(root / path):
            what = f"It looks like a secret, {_takers(path, image, git)}"
            findings[path] = Finding(path, what, _hint(path, image, git))
        elif sizes[path] <= unread and (token := find_token(root / path)) is not None:
            what = f"It holds what looks like {token.kind}, {_takers(path, image, git)}"
            findings[path] = Finding(f"{path}:{token.line}", what, HINT)
        unread -= min(unread, sizes[path])
    return [*(findings[path] for path in sorted(findings)), *_unread(unread)]


HINT = (
    "Take it out of the file, let the code read it from outside of the project, and get a new one if it was "
    f"ever pushed. If it is no secret, put into that line: {ALLOWED.decode()}"
)


def _unread(left: int) -> Iterator[Finding]:
    if not left:
        what = f"It is more than {readable_size(MOST_READ)}: not all of it was searched for secrets"
        yield Finding(".gitignore", what, "Name data in it, and in .dockerignore.", "warning")


def _takers(path: str, image: Content, git: GitFiles) -> str:
    takers = ["and git has it"] if path in git.tracked else []
    takers += ["and git add --all would take it"] if path in git.untracked else []
    takers += ["and it would be copied into the image"] if path in image.files else []
    return ", ".join(takers)


def _hint(path: str, image: Content, git: GitFiles) -> str:
    files = [".gitignore"] if path in git.untracked | git.tracked else []
    files += [".dockerignore"] if path in image.files else []
    first = ""
    if path in git.tracked:
        first = f"Run: git rm --cached {shlex.quote(path)}, and get a new one if it was ever pushed. "
    return f"{first}Name it in {' and '.join(files)}, or move it out of the project."


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # git has it, and somebody has deleted it
        return 0
