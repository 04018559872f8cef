"""Is the lock in step with what the project asks for, and does everything have a version that cannot move?"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isc_runtime.submission.finding import Finding
from isc_runtime.submission.logical_lines import logical_lines
from isc_runtime.text_files import read_text
from isc_runtime.toml import load_toml

NEEDED, LOCK, COMMIT = "pyproject.toml", "requirements.lock", "requirements-cycling-utils.txt"
UV_LOCK = (
    "uv.lock"  # there once somebody has used `uv sync` or `uv run`; requirements.lock is then made from it
)
FORMER = "requirements.in"  # where projects named what they need before 0.2.0

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:==\s*([^\s;,\\]+))?")
_UV_PACKAGE = re.compile(r'^\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"', re.MULTILINE)


def check_lock(root: Path) -> Iterator[Finding]:
    """What is not in step: pyproject.toml with requirements.lock, and that with uv.lock, if there is one."""
    locked: dict[str, list[str]] = {}  # more than one version: for different Pythons
    for number, line in logical_lines(root / LOCK):
        match = _REQUIREMENT.match(line)
        if match is None:
            continue  # an option of pip
        locked.setdefault(normalized(match[1]), []).append(match[2] or "")
        if not match[2] or "--hash=sha256:" not in line:
            where, what = f"{LOCK}:{number}", f"{match[1]} has no exact version or no hash"
            yield Finding(where, what, "Run: make lock")
    if not locked and any(logical_lines(root / LOCK)):
        yield Finding(LOCK, "It names no requirement: the image would have no torch", "Run: make lock")
    yield from _check_table(root)
    for number, line in needed(root) if locked else []:
        yield from _check_needed(f"{NEEDED}:{number}", line, locked)
    if (root / FORMER).is_file():
        hint = f"Move what you have added to it into dependencies in {NEEDED}, delete it, and run: make lock"
        yield Finding(FORMER, f"It is no longer read: {NEEDED} says what the project needs", hint)
    yield from _check_uv_lock(root, locked)


def _check_table(root: Path) -> Iterator[Finding]:
    """Whether pyproject.toml says what the project is called, and what it needs."""
    try:
        table = project_table(root)
    except (OSError, ImportError):
        return  # missing, or empty, and that is said already; or there is nothing to read TOML with
    except ValueError as error:
        what = (
            f"It cannot be read ({' '.join(str(error).split())}): nobody knows what the image has to install"
        )
        yield Finding(NEEDED, what, "Fix it: it must be TOML, in UTF-8.")
        return
    except LookupError:
        if any(logical_lines(root / NEEDED)):  # otherwise that is said
            hint = "Bring it back from git, or write a [project] with name and dependencies."
            yield Finding(NEEDED, "It has no [project]: nobody knows what the image has to install", hint)
        return
    if not isinstance(table.get("name"), str):
        yield Finding(NEEDED, "It does not name the project", 'Write in [project]: name = "..."')
    dynamic = table.get("dynamic")
    is_told = isinstance(table.get("dependencies"), list)
    is_told |= isinstance(dynamic, list) and "dependencies" in dynamic
    if not is_told:
        hint = 'Write in [project]: dependencies = ["torch", ...], and run: make lock'
        yield Finding(NEEDED, "It does not say what the project needs", hint)


def _check_needed(where: str, line: str, locked: dict[str, list[str]]) -> Iterator[Finding]:
    match = _REQUIREMENT.match(line)
    if match is None:
        return
    versions = locked.get(normalized(match[1]), [])
    if not versions and ";" not in line:  # with a condition: it may not hold where the lock is for
        yield Finding(where, f"{match[1]} is not in {LOCK}", "Run: make lock")
    # A lock may be for one build of torch, 2.13.0+cu128: that is the version 2.13.0.
    elif (
        versions
        and match[2] is not None
        and match[2]
        not in {
            *versions,
            *(version.partition("+")[0] for version in versions),
        }
    ):
        what = f"{match[1]} is {match[2]} here, but {' or '.join(versions) or 'unpinned'} in {LOCK}"
        yield Finding(where, what, "Run: make lock")


def _check_uv_lock(root: Path, locked: dict[str, list[str]]) -> Iterator[Finding]:
    """Whether uv installs here what pip installs in the image."""
    try:
        found = _UV_PACKAGE.findall(read_text(root / UV_LOCK))
    except ValueError:
        found = []
    except OSError:
        return  # there is none
    if not found:
        hint = "Bring it back from git, or delete it. Then run: make lock"
        yield Finding(UV_LOCK, "It names no package, and requirements.lock is made from it", hint)
        return
    by_uv: dict[str, list[str]] = {}
    for name, version in found:
        by_uv.setdefault(normalized(name), []).append(version)
    others = [name for name, versions in locked.items() if not set(versions) <= set(by_uv.get(name, []))]
    if others:
        there, here = " and ".join(by_uv.get(others[0], ["missing"])), " and ".join(locked[others[0]])
        more = f", and {len(others) - 1} more differ" if len(others) > 1 else ""
        what = f"{others[0]} is {here} here, but {there} in {UV_LOCK}{more}"
        yield Finding(LOCK, what, "Run: make lock, which makes it from uv.lock; and commit both.")


def project_table(root: Path) -> dict[str, Any]:
    """What pyproject.toml has in `[project]`; it is only to be read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML.
        LookupError: it has no such table.
        ImportError: there is nothing here that reads TOML.
    """
    table = _parsed(read_text(root / NEEDED))["project"]
    if not isinstance(table, dict):
        raise LookupError("[project] is no table")
    return table


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> dict[str, Any]:
    return load_toml(text)


def needed(root: Path) -> list[tuple[int, str]]:
    """The requirements in `[project] dependencies` of pyproject.toml, and the lines that they stand in.

    Args:
        root: the project. Where its pyproject.toml cannot be read, it needs nothing.
    """
    try:
        text = read_text(root / NEEDED)
        named = project_table(root)["dependencies"]
    except (OSError, ValueError, ImportError, LookupError, TypeError):
        return []
    requirements = [line for line in named if isinstance(line, str)] if isinstance(named, list) else []
    lines = text.splitlines()
    return [
        (next((n for n, line in enumerate(lines, 1) if requirement in line), 1), requirement)
        for requirement in requirements
    ]


def check_cycling_utils(file: Path) -> Iterator[Finding]:
    for number, line in logical_lines(file):
        if "git+" in line and not re.search(r"@[0-9a-f]{40}\b", line):
            hint = (
                "Write @ and the 40 digits of a commit after the address: a branch moves, a commit does not."
            )
            yield Finding(f"{file.name}:{number}", "It does not name a full commit", hint)


def required_names(root: Path) -> set[str]:
    """The distributions that pyproject.toml, the lock and the commit name, as `normalized` writes them.

    Args:
        root: the project; a file that cannot be read names nothing.
    """
    return _names([line for _, line in needed(root)]) | locked_names(root, LOCK, COMMIT)


def locked_names(root: Path, *files: str) -> set[str]:
    """Those that files of requirements name."""
    return _names([line for name in files for _, line in logical_lines(root / name)])


def unconditional_names(root: Path) -> set[str]:
    """Those that are needed everywhere: without `; python_version < "3.11"` or the like."""
    return _names([line for _, line in needed(root) if ";" not in line])


def _names(lines: list[str]) -> set[str]:
    return {normalized(match[1]) for line in lines if (match := _REQUIREMENT.match(line))}


def normalized(name: str) -> str:
    """A distribution's name as all its spellings are compared:
    https://packaging.python.org/en/latest/specifications/name-normalization
    """
    return re.sub(r"[-_.]+", "-", name).lower()
