"""A submission: what keeps it back, what is written down, and that `isc train` gets the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.submission import journal
from isc_runtime.submission.facts import digest
from isc_runtime.tests.submission.planted import TOKENS
from isc_runtime.tests.submission.test_project import launch_file, project, write

__all__ = ["project"]
ISC = """#!/bin/sh
echo "fake isc: $* in $(pwd)"
exit 7
"""


@dataclass(frozen=True)
class Ended:
    """A submission that is over.

    Attributes:
        code: its exit code.
        said: both streams.
        submissions: what was written down.
    """

    code: int
    said: str
    submissions: list[dict[str, Any]]


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder with an `isc` in it, which says with what it was called and ends with 7."""
    program = tmp_path / "bin" / "isc"
    program.parent.mkdir()
    program.write_text(ISC)
    program.chmod(0o755)
    return program.parent


def submit(project: Path, path: Path | str, *options: str) -> Ended:
    variables = {**os.environ, "PATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "isc_runtime", "submit", *options]
    ended = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    return Ended(
        ended.returncode, ended.stdout + ended.stderr, journal.entries(project / "submissions.jsonl")
    )


def rehearsed(project: Path, is_ready: bool = True, conclusion: str = "Ready to submit: x.") -> None:
    entry = {"time": "2026-11-24T00:00:00+00:00", "files": digest(project), "fit": is_ready}
    journal.append(project / "rehearsals.jsonl", {**entry, "conclusion": conclusion})


def test_a_rehearsed_project_goes_to_isc(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    ended = submit(project, f"{bin_folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert ended.code == 7, "that of isc"
    assert f"fake isc: train experiment.isc in {project}" in ended.said
    (submission,) = ended.submissions
    assert submission["files"] == digest(project)
    assert submission["rehearsal"]["fit"] is True
    assert submission["command"].startswith("bash /root/copied/launch.sh")
    assert {"time", "commit", "is_dirty", "lock", "versions", "answers"} <= submission.keys()
    assert (
        f"Written down in submissions.jsonl: files {submission['files'][:12]}, commit unknown" in ended.said
    )
    assert ended.said.index("Written down") < ended.said.index("fake isc")
    again = submit(project, bin_folder)
    assert [entry["files"] for entry in again.submissions] == [submission["files"]] * 2, (
        "it has changed nothing"
    )


def test_without_a_rehearsal_it_stays(project: Path, bin_folder: Path) -> None:
    ended = submit(project, bin_folder)
    assert (ended.code, ended.submissions) == (1, [])
    hint = "Run: python -m isc_runtime rehearse. Or submit it as it is: --unrehearsed"
    assert f"ERROR: rehearsal: It was not rehearsed. {hint}\n" in ended.said
    assert "fake isc" not in ended.said
    ended = submit(project, bin_folder, "--unrehearsed")
    assert ended.code == 7
    assert ended.submissions[0]["rehearsal"] is None
    assert "WARNING: rehearsal: It was not rehearsed. It goes without, as you said.\n" in ended.said


def test_changed_code_is_not_rehearsed(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    write("model.py", (project / "model.py").read_text() + "\n")(project)
    ended = submit(project, bin_folder)
    assert (ended.code, ended.submissions) == (1, [])
    assert (
        "changed since its newest rehearsal, that of 2026-11-24T00:00:00+00:00. Run: python -m" in ended.said
    )


def test_the_newest_rehearsal_of_this_code_counts(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    rehearsed(project, is_ready=False, conclusion="Not ready to submit: cycle 2: It does not resume.")
    ended = submit(project, bin_folder)
    assert (ended.code, ended.submissions) == (1, [])
    assert (
        "The newest rehearsal of it said: Not ready to submit: cycle 2: It does not resume. Fix" in ended.said
    )
    rehearsed(project)
    assert submit(project, bin_folder).code == 7


@pytest.mark.parametrize("options", [(), ("--unrehearsed",)])
def test_what_is_wrong_is_not_submitted(project: Path, bin_folder: Path, options: tuple[str, ...]) -> None:
    launch_file(gpus="0")(project)
    write("notes.txt", TOKENS["a GitLab token"])(project)
    rehearsed(project)
    ended = submit(project, bin_folder, *options)
    assert (ended.code, ended.submissions) == (1, [])
    assert "ERROR: experiment.isc:3: " in ended.said
    assert "ERROR: notes.txt:1: It holds what looks like a GitLab token" in ended.said


def test_an_id_that_is_still_open(project: Path, bin_folder: Path) -> None:
    launch_file(isc_project_id='""')(project)
    rehearsed(project)
    ended = submit(project, bin_folder)
    assert (ended.code, ended.submissions) == (1, [])
    assert (
        "ERROR: experiment.isc: Without an isc_project_id nothing can be submitted. Put it in" in ended.said
    )


def test_without_isc_it_says_where_to_go(project: Path, tmp_path: Path) -> None:
    rehearsed(project)
    ended = submit(project, tmp_path)
    assert (ended.code, ended.submissions) == (3, [])
    assert "ERROR: There is no program isc here, so nothing was submitted" in ended.said
    assert "cd /root/copied && python -m isc_runtime submit" in ended.said


def test_what_cannot_be_written_down_is_not_submitted(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    (project / "submissions.jsonl").mkdir()
    ended = submit(project, bin_folder)
    assert ended.code == 3
    assert "cannot be written down (Is a directory), so nothing was submitted: " in ended.said
    assert "fake isc" not in ended.said


def test_a_program_that_cannot_be_started(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    (bin_folder / "isc").write_text("no program at all\n")
    ended = submit(project, bin_folder)
    assert ended.code == 3
    assert "ERROR: The program isc cannot be started (Exec format error): " in ended.said
    assert "isc train experiment.isc" in ended.said


def test_a_program_in_a_relative_path(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    assert submit(project, os.path.relpath(bin_folder, project)).code == 7


def test_lines_are_json(project: Path, bin_folder: Path) -> None:
    rehearsed(project)
    submit(project, bin_folder)
    (line,) = (project / "submissions.jsonl").read_text().splitlines()
    assert json.loads(line)["experiment_name"] == "An experiment"
