"""A rehearsal runs in a copy of the project, and says so before; what it writes down stays in the project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import Project

COMMAND = "bash /root/isc-experiment/launch.sh"
DELETES = "cd /root/isc-experiment && rm data.py && bash launch.sh"


def lines_of(project: Project) -> list[dict[str, object]]:
    """What is written down of its rehearsals."""
    return [json.loads(line) for line in (project.path / "rehearsals.jsonl").read_text().splitlines()]


def test_a_command_that_deletes_deletes_in_the_copy(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    project.change("experiment.isc", COMMAND, DELETES)
    ended = project.rehearse("--nodes", "1")
    assert ended.code == 1
    (error,) = ended.errors
    assert "ended with exit code 1 before train.py" in error
    assert (project.path / "data.py").is_file()
    assert list(temporary.iterdir()) == [], "the copy is gone"
    before = ended.said.partition("Trial start")[0]
    assert "it runs in a copy of the project (" in before
    assert f"/root/isc-experiment is {temporary}/isc-" in before
    assert "&& rm data.py && bash launch.sh" in before
    assert ended.verdict["folder"].startswith(f"{project.path}/rehearsals/")
    (line,) = lines_of(project)
    assert (line["fit"], line["files"]) == (False, ended.verdict["project"]["files"])
    assert line["conclusion"] == ended.verdict["conclusion"]


def test_in_place_it_deletes_the_real_one(project: Project) -> None:
    project.change("experiment.isc", COMMAND, DELETES)
    ended = project.rehearse("--nodes", "1", "--in-place")
    assert ended.code == 1
    assert not (project.path / "data.py").exists()
    before = ended.said.partition("Trial start")[0]
    assert "it runs in the project itself: what the command deletes there is deleted" in before
    assert f"/root/isc-experiment is {project.path}\n" in before
