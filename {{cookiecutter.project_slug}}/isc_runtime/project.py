"""Is this project fit to submit? Structure, launch file, lock and Dockerfile, from their text alone.

Standard library only, and nothing is run or imported: it answers in a blink, also right after generation.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from isc_runtime.finding import Finding as Finding
from isc_runtime.launch_file import check_launch_file, load_toml

EXPECTED = {
    "experiment.isc": "what `isc train` submits",
    "launch.sh": "what every node runs",
    "Dockerfile": "the image's recipe",
    ".dockerignore": "what the image must not hold",
    "requirements.in": "what the project needs",
    "requirements.lock": "what the image installs",
    "requirements-cycling-utils.txt": "what the image installs besides",
    "train.py": "the training",
    "model.py": "the model",
    "data.py": "the data",
    "isc_runtime/": "the template's part of the project",
    "tests/": "the project's tests",
    "README.md": "what people read first",
    "pyproject.toml": "the project's name, and the settings of its tools",
}
CREDENTIALS = "credentials.isc"  # of the `isc` command: TOML in a file of the same suffix, but no launch file

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?:==\s*([^\s;,\\]+))?")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^}]*))?\})")


def check(root: Path) -> list[Finding]:
    """Everything that is wrong with a project.

    Args:
        root: its directory.

    Returns:
        Errors and warnings, in the order of the files in `EXPECTED`.
    """
    return list(_check(root.resolve()))


def run_check(root: Path, as_json: bool) -> int:
    """Prints what `check` finds, a line each, or as one JSON object. Returns the exit code: 1 on errors."""
    findings = check(root)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print(
            json.dumps({"fit": not errors, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        lines = [f"{finding.severity.upper()}: {finding}" for finding in findings]
        for line in [*lines, _verdict(errors, len(findings) - errors)]:
            # A finding may quote anything, and not every terminal can show it.
            encoding = sys.stdout.encoding or "ascii"
            print(line.encode(encoding, "backslashreplace").decode(encoding))
    return 1 if errors else 0


def _verdict(errors: int, warnings: int) -> str:
    counts = [f"{n} {noun}{'s' * (n > 1)}" for n, noun in ((errors, "error"), (warnings, "warning")) if n]
    if errors:
        return f"Not fit to submit: {', '.join(counts)}."
    return f"No errors, {counts[0]} to settle before you submit." if counts else "Fit to submit."


def _check(root: Path) -> Iterator[Finding]:
    for name, purpose in EXPECTED.items():
        path = root / name
        if not (path.is_dir() if name.endswith("/") else path.is_file()):
            hint = f"Bring it back, from git or a newly generated project: it is {purpose}."
            yield Finding(name, "It is missing", hint)
    for file in sorted(root.glob("*.isc")):
        if file.name != CREDENTIALS:
            yield from check_launch_file(file, root, _homes(root))
    for name in ("train.py", "model.py", "data.py"):
        yield from _check_syntax(root / name)
    yield from _check_launch_script(root / "launch.sh")
    yield from _check_dockerfile(root)
    yield from _check_lock(root)
    yield from _check_cycling_utils(root / "requirements-cycling-utils.txt")


def _homes(root: Path) -> list[str]:
    """Where the project is on the ISC: the image puts it under its name, people clone it anywhere."""
    names = [root.name]
    # Without a readable pyproject.toml the folder's name will do.
    with contextlib.suppress(OSError, ValueError, ImportError, KeyError, TypeError):
        names.insert(0, load_toml((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"])
    return [f"/root/{name}" for name in dict.fromkeys(names)]


def _check_syntax(file: Path) -> Iterator[Finding]:
    try:
        ast.parse(file.read_bytes())
    except OSError:
        pass  # missing: it is said already
    except SyntaxError as error:
        yield Finding(
            f"{file.name}:{error.lineno}", f"Python cannot read it ({error.msg})", "Mend this line."
        )
    except ValueError as error:  # a NUL
        yield Finding(file.name, f"Python cannot read it ({error})", "Save it as plain UTF-8 text.")


def _check_launch_script(file: Path) -> Iterator[Finding]:
    if not file.is_file():
        return
    if os.name == "posix" and not os.access(file, os.X_OK):
        yield Finding(file.name, "It is not executable", "Run: chmod +x launch.sh")
    if b"\r" in file.read_bytes():
        hint = "Save it with Unix line ends; in git: git config core.autocrlf input"
        yield Finding(file.name, "It has Windows line ends, which bash takes for a part of the words", hint)


def _check_lock(root: Path) -> Iterator[Finding]:
    locked: dict[str, str] = {}
    for number, line in _logical_lines(root / "requirements.lock"):
        match = _REQUIREMENT.match(line)
        if match is None:
            continue  # an option of pip
        where = f"requirements.lock:{number}"
        locked[_normalized(match[1])] = match[2] or ""
        if not match[2] or "--hash=sha256:" not in line:
            yield Finding(where, f"{match[1]} has no exact version or no hash", "Run: make lock")
    for number, line in _logical_lines(root / "requirements.in"):
        match = _REQUIREMENT.match(line)
        if match is None or not locked:
            continue
        where, version = f"requirements.in:{number}", locked.get(_normalized(match[1]))
        if version is None and ";" not in line:  # with a condition: it may not hold where the lock is for
            yield Finding(where, f"{match[1]} is not in requirements.lock", "Run: make lock")
        elif version is not None and match[2] not in (None, version):
            what = f"{match[1]} is {match[2]} here, but {version or 'unpinned'} in requirements.lock"
            yield Finding(where, what, "Run: make lock")


def _check_cycling_utils(file: Path) -> Iterator[Finding]:
    for number, line in _logical_lines(file):
        if "git+" in line and not re.search(r"@[0-9a-f]{40}\b", line):
            hint = (
                "Write @ and the 40 digits of a commit after the address: a branch moves, a commit does not."
            )
            yield Finding(f"{file.name}:{number}", "It does not name a full commit", hint)


def _check_dockerfile(root: Path) -> Iterator[Finding]:
    variables: dict[str, str] = {}
    for number, line in _logical_lines(root / "Dockerfile"):
        instruction, _, rest = line.partition(" ")
        if instruction.upper() == "ARG":
            name, _, default = rest.strip().partition("=")
            variables[name] = default.strip("\"'")
        elif instruction.upper() in ("COPY", "ADD"):
            for source in _copied(rest, variables):
                pattern = source.strip("/") or "."
                if not (root / pattern).exists() and not (_is_glob(pattern) and any(root.glob(pattern))):
                    hint = "Make it, or take it out of the line: docker build fails without it."
                    yield Finding(f"Dockerfile:{number}", f"There is no {source} to copy", hint)


def _copied(rest: str, variables: dict[str, str]) -> list[str]:
    """The sources of a COPY or ADD, as far as they are in this project and known before the build."""
    try:
        words = json.loads(rest) if rest.lstrip().startswith("[") else shlex.split(rest)
    except ValueError:
        return []  # docker will say it better
    if any(word.startswith(("--from", "<<")) for word in words):
        return []
    sources = [word for word in words if not word.startswith("--")][:-1]
    known = [_VARIABLE.sub(lambda match: _expand(match, variables), source) for source in sources]
    return [source for source in known if source and "$" not in source and "://" not in source]


def _expand(match: re.Match[str], variables: dict[str, str]) -> str:
    return variables.get(match[1] or match[2]) or match[3] or match[0]


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def _logical_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines without comments and blank ones, joined where they end in a backslash, and their numbers."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return  # missing: it is said already
    start, joined = 0, ""
    for number, line in enumerate(lines, 1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        start = start if joined else number
        joined += text.removesuffix("\\") + " "
        if not text.endswith("\\"):
            yield start, joined.strip()
            joined = ""
    if joined:
        yield start, joined.strip()


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
