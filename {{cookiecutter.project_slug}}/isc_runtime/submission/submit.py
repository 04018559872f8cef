"""python -m isc_runtime submit: is it ready and rehearsed? Writes down what it is, becomes `isc train`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from isc_runtime.errors import IscError
from isc_runtime.submission import journal, project
from isc_runtime.submission.facts import LAUNCH_FILE, facts
from isc_runtime.submission.finding import Finding, Severity


def submit(root: Path, unrehearsed: bool = False) -> int:
    """Submits experiment.isc, if it is ready to be submitted: then this process becomes `isc train`.

    Args:
        root: the project.
        unrehearsed: whether it may go without a rehearsal.

    Returns:
        The exit code, 1, if it is not ready.

    Raises:
        IscError: there is no `isc` program here that can be started, or what is submitted cannot be written
            down.
    """
    root = root.resolve()
    report, known = project.examine_all(root), facts(root)
    rehearsal = _rehearsal_of(root, known["files"])
    findings = [*report.findings, *_check_id(known), *_check_rehearsed(root, rehearsal, unrehearsed)]
    report = replace(report, findings=findings)
    project.show(report)
    if report.errors:
        return 1
    program = _find_program(root)
    _write_down(root, {"rehearsal": rehearsal, **known})
    sys.stdout.flush()
    os.chdir(root)
    try:
        os.execv(program, [program, "train", LAUNCH_FILE])
    except OSError as error:
        hint = f"Run what it stands for yourself, here: isc train {LAUNCH_FILE}"
        raise IscError(f"The program isc cannot be started ({error.strerror})", program, hint) from None


def _check_id(known: dict[str, Any]) -> Iterator[Finding]:
    """Up to here it could stay open."""
    if not str(known["isc_project_id"] or "").strip():
        hint = "Put it in: Control Plane shows it under Projects."
        yield Finding(LAUNCH_FILE, "Without an isc_project_id nothing can be submitted", hint)


def _rehearsal_of(root: Path, files: str | None) -> dict[str, Any] | None:
    """The newest rehearsal of the files with this digest."""
    rehearsals = journal.entries(root / journal.REHEARSALS)
    return next((entry for entry in reversed(rehearsals) if files and entry.get("files") == files), None)


def _check_rehearsed(root: Path, rehearsal: dict[str, Any] | None, unrehearsed: bool) -> Iterator[Finding]:
    """Was this very code rehearsed, and found ready?"""
    if rehearsal is not None and rehearsal.get("fit") is True:
        return
    hint = "Run: python -m isc_runtime rehearse."
    others = journal.entries(root / journal.REHEARSALS)
    if rehearsal is not None:
        what, hint = (
            f"The newest rehearsal of it said: {rehearsal.get('conclusion')}",
            "Fix that, and rehearse.",
        )
    elif others:
        what = f"It was changed since its newest rehearsal, that of {others[-1].get('time')}"
    else:
        what = "It was not rehearsed"
    severity: Severity = "warning" if unrehearsed else "error"
    hint = "It goes without, as you said." if unrehearsed else f"{hint} Or submit it as it is: --unrehearsed"
    yield Finding("rehearsal", what.rstrip("."), hint, severity)


def _find_program(root: Path) -> str:
    program = shutil.which("isc")
    if program is None:
        raise IscError(
            "There is no program isc here, so nothing was submitted",
            "PATH",
            "It is in the ISC's containers. Log in to one that has this project, and run there: "
            f"cd {shlex.quote(project.homes(root)[0])} && python -m isc_runtime submit",
        )
    return str(Path(program).absolute())


def _write_down(root: Path, known: dict[str, Any]) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    file = root / journal.SUBMISSIONS
    try:
        journal.append(file, {"time": now, **known})
    except OSError as error:
        raise IscError(
            f"What is submitted cannot be written down ({error.strerror}), so nothing was submitted",
            file,
            "Make it writable, or make room.",
        ) from error
    commit = known["commit"] or "unknown"
    print(f"Written down in {file.name}: files {str(known['files'])[:12]}, commit {commit}")
