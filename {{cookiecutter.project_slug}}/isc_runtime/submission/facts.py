"""What is submitted, and what is trained: the facts by which a result is traced back to its code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from isc_runtime.submission.contents.image import image_content
from isc_runtime.submission.contents.version_control import ask_git, changed_files
from isc_runtime.submission.journal import REHEARSALS, SUBMISSIONS
from isc_runtime.submission.lock import needed
from isc_runtime.text_files import read_bytes, read_text
from isc_runtime.toml import load_toml

LARGE = 16 * 2**20  # bytes; of a larger file only its size, its beginning and its end count
PART = 2**20
REVISION = ".revision"  # what `make image` leaves in the image, which has no history
LAUNCH_FILE = "experiment.isc"
FROM_LAUNCH_FILE = ("command", "experiment_name", "isc_project_id")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def facts(root: Path) -> dict[str, Any]:
    """What there is to know of a project's code, and of what it runs with. Nothing here raises.

    Args:
        root: the project.

    Returns:
        What JSON can hold. A value is None where nothing tells it.

        - `commit`, `is_dirty`: whether the files differ from the commit.
        - `files`, `lock`: see `digest`; the sha256 of requirements.lock.
        - `command`, `experiment_name`, `isc_project_id`: as in experiment.isc.
        - `versions`: of Python, of the template, and of what pyproject.toml needs and is installed.
        - `answers`: to the template's questions, if cruft has recorded them.
    """
    commit, is_dirty = _revision(root)
    launch_file = _toml(root / LAUNCH_FILE)
    return {
        "commit": commit,
        "is_dirty": is_dirty,
        "files": digest(root),
        "lock": _sha256(root / "requirements.lock"),
        **{
            name: value if isinstance(value := launch_file.get(name), str) else None
            for name in FROM_LAUNCH_FILE
        },
        "versions": _versions(root),
        "answers": _answers(root),
    }


def digest(root: Path) -> str | None:
    """A sha256 of the names and contents of all files that the image takes, and of the launch file.

    It is the same on a laptop and in a container: modes and times are no part of it, nor are REHEARSALS and
    SUBMISSIONS.
    """
    files = image_content(root).files
    if not files:
        return None
    whole = hashlib.sha256()
    for path in sorted({*files, LAUNCH_FILE} - {REHEARSALS, SUBMISSIONS}):
        content = _content_digest(root / path, files.get(path, 0))
        whole.update(f"{path}\0{content}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _content_digest(file: Path, size: int) -> str:
    try:
        if file.is_symlink():
            return f"-> {file.readlink()}"
        if not file.is_file():  # reading from a pipe would wait for ever
            return "no file"
        with file.open("rb") as stream:
            if size <= LARGE:
                return hashlib.sha256(stream.read()).hexdigest()
            parts = hashlib.sha256(stream.read(PART))
            stream.seek(-PART, 2)
            parts.update(stream.read())
            return f"{size} {parts.hexdigest()}"
    except OSError as error:
        return f"cannot be read: {error.errno}"


def _revision(root: Path) -> tuple[str | None, bool | None]:
    """The commit, and whether the files differ from it, as git or `make image` said."""
    commit = ask_git(root, "rev-parse", "--verify", "HEAD")
    if commit and ask_git(root, "ls-files", "--", "."):
        return commit.strip(), bool(changed_files(root))
    with contextlib.suppress(OSError, ValueError):
        commit, _, mark = read_text(root / REVISION).strip().partition("-")
        return (commit, mark == "dirty") if commit else (None, None)
    return None, None


def _sha256(file: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return hashlib.sha256(read_bytes(file)).hexdigest()
    return None


def _toml(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, ImportError):
        return load_toml(read_text(file))
    return {}


def _versions(root: Path) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    with contextlib.suppress(LookupError, TypeError):
        versions["isc-template"] = _toml(root / "pyproject.toml")["tool"]["isc-template"]["version"]
    matches = [_NAME.match(line) for _, line in needed(root)]
    for name in [*(match[0] for match in matches if match), "cycling_utils"]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _answers(root: Path) -> dict[str, Any] | None:
    # Whatever has become of that file, it is no obstacle.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        recorded = json.loads(read_text(root / ".cruft.json"))["context"]["cookiecutter"]
        return {name: answer for name, answer in recorded.items() if not name.startswith("_")}
    return None
