"""Is this project ready to submit? Structure, launch file, lock, image, from the files alone; and git's word.

Standard library only, and it answers in a blink. Nothing of the project is run or imported, but for the
function in train.py that parses the command line: it judges the arguments, in a process of its own.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from isc_runtime.config import OPTION
from isc_runtime.python_files import files_of, parse_python
from isc_runtime.sizes import readable_size
from isc_runtime.submission.contents import credentials
from isc_runtime.submission.contents.dockerfile import place_in_image
from isc_runtime.submission.contents.image import Content, check_image, image_content
from isc_runtime.submission.contents.leaks import check_leaks
from isc_runtime.submission.contents.version_control import GitFiles, check_committed, files_of_git
from isc_runtime.submission.finding import Finding as Finding
from isc_runtime.submission.imports import ROOTS, check_imports
from isc_runtime.submission.launch_file import check_launch_file
from isc_runtime.submission.lock import check_cycling_utils, check_lock, project_table
from isc_runtime.submission.parts import BESIDE, check_parts
from isc_runtime.submission.update import check_update, conflict
from isc_runtime.text_files import read_bytes, read_text
from isc_runtime.toml import load_toml

SECONDS = 5  # for a bash that only reads


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        findings: errors and warnings: secrets, what is missing, the launch files, all else.
        image: what the image would take from the project.
        has_secrets: whether git or the image has or would take one.
    """

    findings: list[Finding]
    image: Content
    has_secrets: bool = False

    @property
    def errors(self) -> int:
        """How many findings make a submission fail or go wrong."""
        return sum(finding.severity == "error" for finding in self.findings)


def check(root: Path, git: GitFiles | None = None) -> list[Finding]:
    """Everything that is wrong with a project.

    Args:
        root: its directory.
        git: what git has or would take of it; None asks git.
    """
    return examine(root, git).findings


def examine(root: Path, git: GitFiles | None = None) -> Report:
    """Looks at everything that is in a project's files.

    Args:
        root: its directory.
        git: what git has or would take of it; None asks git.
    """
    root = root.resolve()
    with ThreadPoolExecutor(1) as beside:  # it waits for the processes that judge arguments and launch.sh
        launching = beside.submit(_check_launching, root)
        image, git = image_content(root), files_of_git(root) if git is None else git
        leaks = check_leaks(root, image, git)
        code = files_of(root, ROOTS)
        parts = check_parts(root, [*map(Path.as_posix, code), *_files_of_command(root)], image, git)
        rest = [*_check_files(root, code, git), *check_image(root, image)]
        found = [*parts, *launching.result(), *rest]
    has_secrets = any(leak.severity == "error" for leak in leaks)
    return Report([*leaks, *found], image, has_secrets)


def examine_all(root: Path) -> Report:
    """The same, and whether all of it is committed.

    Args:
        root: its directory.
    """
    report = examine(root)
    uncommitted = check_committed(root, report.has_secrets)
    return replace(report, findings=[*report.findings, *uncommitted])


def run_check(root: Path, as_json: bool) -> int:
    """Checks a project, and whether it is committed, and prints a line a finding, or one JSON object.

    Returns:
        The exit code: 1 on errors.
    """
    report = examine_all(root)
    show(report, as_json)
    return 1 if report.errors else 0


def show(report: Report, as_json: bool = False) -> None:
    """Prints a line a finding and a verdict, or one JSON object."""
    image = {"files": len(report.image.files), "bytes": report.image.size}
    if as_json:
        findings = [asdict(finding) for finding in report.findings]
        print(json.dumps({"fit": not report.errors, "findings": findings, "image": image}, indent=2))
    else:
        lines = [f"{finding.severity.upper()}: {finding}" for finding in report.findings]
        takes = f"The image takes {image['files']} files of it, {readable_size(image['bytes'])}."
        print("\n".join([*lines, f"{_verdict(report.errors, len(lines) - report.errors)} {takes}"]))


def _verdict(errors: int, warnings: int) -> str:
    counts = [f"{n} {noun}{'s' * (n > 1)}" for n, noun in ((errors, "error"), (warnings, "warning")) if n]
    if errors:
        return f"Not ready to submit: {', '.join(counts)}."
    return f"No errors, {counts[0]} to settle before you submit." if counts else "Ready to submit."


def _check_launching(root: Path) -> list[Finding]:
    """What other programs are asked about, which takes its time."""
    files = [file for file in sorted(root.glob("*.isc")) if file.name != credentials.ISC]
    findings = [finding for file in files for finding in check_launch_file(file, root, homes(root))]
    return [*findings, *_check_place(root), *_check_launch_script(root / "launch.sh")]


def _command(root: Path) -> str:
    """The command of experiment.isc, with /root for ~; "" if it cannot be read, which is said already."""
    try:
        command = str(load_toml(read_text(root / "experiment.isc")).get("command"))
    except (OSError, ValueError, ImportError):
        return ""
    return re.sub(r"(?<![\w/])(~|\$HOME|\$\{HOME\})(?=/)", "/root", command)


def _check_place(root: Path) -> Iterator[Finding]:
    """Whether the command looks for the project where the image has it. A container knows it better."""
    place, command = place_in_image(root), _command(root)
    named = [home for home in homes(root) if re.search(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", command)]
    if place and named and place not in named and str(root) not in named:
        what = f"The command looks for the project in {named[0]}, and the image has it in {place}"
        hint = "Correct the command, or WORKDIR in the Dockerfile; for a clone in that place it is right."
        yield Finding("experiment.isc", what, hint, "warning")


def _files_of_command(root: Path) -> list[str]:
    """The files of the project that it names. A container, where they are, is what the ISC runs."""
    places, command = homes(root), _command(root)
    if str(root) in places:
        return []
    names = [] if OPTION in command else [BESIDE]
    for word in re.split(r"[\s\"'=;&|()<>]+", command):
        place = next((place for place in places if word.startswith(f"{place}/")), "")
        names.append(os.path.normpath(word.removeprefix(place).lstrip("/") if place else word))
    inside = [name for name in names if not name.startswith(("/", "..")) and (root / name).is_file()]
    return [
        name
        for name in inside
        if not any((root / top / "pyvenv.cfg").is_file() for top in Path(name).parents)
    ]


def _check_files(root: Path, code: dict[Path, ast.Module], git: GitFiles) -> Iterator[Finding]:
    for file in code:
        yield from _check_syntax(root, file)
    yield from check_lock(root)
    yield from check_imports(root, code)
    yield from check_cycling_utils(root / "requirements-cycling-utils.txt")
    yield from check_update(root, git)


def homes(root: Path) -> list[str]:
    """Where it may be on the ISC: as the Dockerfile says, under its name; people clone it anywhere."""
    found = [place_in_image(root)]
    with contextlib.suppress(OSError, ValueError, ImportError, LookupError):  # it is said
        found.append(f"/root/{project_table(root)['name']}")
    return list(dict.fromkeys(filter(None, [*found, f"/root/{root.name}"])))


def _check_syntax(root: Path, file: Path) -> Iterator[Finding]:
    where = file.as_posix()
    try:
        if conflict(read_bytes(root / file)) is None:  # check_update says more about that
            parse_python(root / file)
    except OSError as error:
        yield Finding(where, f"It cannot be read ({error.strerror or error})", "Make it readable: chmod u+r")
    except SyntaxError as error:
        yield Finding(f"{where}:{error.lineno}", f"Python cannot read it ({error.msg})", "Fix this line.")
    except ValueError as error:  # a NUL, or no program that a person has written
        hint = "Save it as plain UTF-8 text, and write no deeper than Python reads."
        yield Finding(where, f"Python cannot read it ({error})", hint)


def _check_launch_script(file: Path) -> Iterator[Finding]:
    try:
        content = read_bytes(file)
    except (OSError, ValueError):
        return  # it is said already
    if os.name == "posix" and not os.access(file, os.X_OK):
        yield Finding(file.name, "It is not executable", "Run: chmod +x launch.sh", "warning")
    if b"\r" in content:
        hint = "Save it with Unix line ends; in git: git config core.autocrlf input"
        yield Finding(file.name, "It has Windows line ends, which bash takes for a part of the words", hint)
        return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # there may be no bash
        read = subprocess.run(["bash", "-n", str(file)], capture_output=True, check=False, timeout=SECONDS)
        said = read.stderr.decode(errors="replace").strip().splitlines()
        if read.returncode and said:
            what = f"bash cannot read it ({said[0].removeprefix(f'{file}: ')})"
            yield Finding(file.name, what, "Fix that: it would run up to there, and fail.")
