"""A project that somebody has changed takes over a newer template: their work stays, the runtime moves on."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib

from baking import git, passes, run
from history import CRUFT, commit, create, replace

NEXT = "999.0.0"


@dataclass
class Pair:
    """A template, and a project that was made from it."""

    template: Path
    project: Path

    @property
    def source(self) -> Path:
        return self.template / "{{cookiecutter.project_slug}}"


@pytest.fixture
def pair(template: Path, tmp_path: Path) -> Pair:
    """A project of the present template, and work on its model.py and train.py."""
    clone = tmp_path / "isc-template"
    git("clone", "-q", str(template), str(clone), cwd=tmp_path)
    project = create(clone, tmp_path)
    replace(project / "model.py", "nn.Dropout(0.2)", "nn.Dropout(0.3)")
    replace(project / "train.py", 'default=15, help="how often', 'default=7, help="how often')
    replace(project / "experiment.isc", 'isc_project_id = ""', 'isc_project_id = "prj-brave-otter-251124"')
    (project / "notes.md").write_text("Mine.\n")
    commit(project, "My work")
    return Pair(clone, project)


def release(pair: Pair) -> str:
    """A new version of the template: changes in the runtime and in train.py, a file more and one less."""
    questions = pair.template / "cookiecutter.json"
    present = json.loads(questions.read_text())["_template_version"]
    replace(questions, f'"_template_version": "{present}"', f'"_template_version": "{NEXT}"')
    runtime = pair.source / "isc_runtime"
    (runtime / "news.py").write_text('"""New in this version."""\n')
    (runtime / "sizes.py").write_text((runtime / "sizes.py").read_text() + "\n\nMOVED_ON = True\n")
    replace(
        pair.source / "train.py",
        'help="compute in float32 where bf16 would do"',
        'help="compute in float32, and never in bf16"',
    )
    model = pair.source / "model.py"
    model.write_text(model.read_text().replace('"""', '"""Newer. ', 1))
    (pair.source / ".vscode" / "settings.json").unlink()
    return commit(pair.template, "The next version")


def test_edits_stay_the_runtime_moves_on_and_the_tests_pass(pair: Pair) -> None:
    newest = release(pair)
    passes(*CRUFT, "update", "--skip-apply-ask", cwd=pair.project)

    train, model = (pair.project / name for name in ("train.py", "model.py"))
    assert "default=7" in train.read_text()
    assert "compute in float32, and never in bf16" in train.read_text()
    assert "nn.Dropout(0.3)" in model.read_text()
    assert model.read_text().startswith('"""Newer. ')
    assert "prj-brave-otter-251124" in (pair.project / "experiment.isc").read_text()
    assert (pair.project / "notes.md").read_text() == "Mine.\n"
    for file in filter(Path.is_file, (pair.source / "isc_runtime").rglob("*")):
        name = file.relative_to(pair.source)
        assert (pair.project / name).read_bytes() == file.read_bytes(), name
    assert not (pair.project / ".vscode" / "settings.json").exists()
    assert not list(pair.project.rglob("*.rej"))

    metadata = tomllib.loads((pair.project / "pyproject.toml").read_text())
    assert metadata["tool"]["isc-template"]["version"].startswith(NEXT)
    assert json.loads((pair.project / ".cruft.json").read_text())["commit"] == newest
    passes(sys.executable, "-m", "isc_runtime", "check", cwd=pair.project)
    passes("make", "test", f"PYTHON={sys.executable}", cwd=pair.project)


def test_what_both_have_changed_is_left_for_a_person(pair: Pair) -> None:
    replace(pair.source / "model.py", "nn.Dropout(0.2)", "nn.Dropout(0.1)")
    commit(pair.template, "Less dropout")
    result = run(*CRUFT, "update", "--skip-apply-ask", cwd=pair.project)
    text = (pair.project / "model.py").read_text()
    assert "nn.Dropout(0.3)" in text, "nobody's work is lost"
    assert "<<<<<<< ours" in text
    assert "model.py" in git("diff", "--name-only", "--diff-filter=U", cwd=pair.project)
    assert "conflict" in (result.stdout + result.stderr).lower()


def test_cruft_check_tells_whether_there_is_something_new(pair: Pair) -> None:
    assert run(*CRUFT, "check", cwd=pair.project).returncode == 0
    release(pair)
    assert run(*CRUFT, "check", cwd=pair.project).returncode == 1


def test_an_update_over_work_that_is_not_committed_is_refused(pair: Pair) -> None:
    release(pair)
    replace(pair.project / "model.py", "nn.Dropout(0.3)", "nn.Dropout(0.4)")
    before = (pair.project / "model.py").read_text()
    result = run(*CRUFT, "update", "--skip-apply-ask", cwd=pair.project)
    assert result.returncode != 0
    assert "unclean git project" in result.stdout + result.stderr
    assert (pair.project / "model.py").read_text() == before
