"""A newcomer with an empty folder follows the READMEs: every command in them is run, as it stands there.

`bash` blocks are run, in one shell and in their order. `text` blocks are output, or commands that need the
ISC or an answer from a person: those are compared with what exists.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from baking import ROOT, words_of
from host_pip import settings

RUNS_THIS = {"make test"}  # the tests that CI runs before these; once is enough


def commands(readme: Path) -> list[str]:
    """The lines of all `bash` blocks."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", readme.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def follow(lines: list[str], directory: Path) -> str:
    """Runs the lines in one bash that stops at the first failure; returns what was said."""
    strange = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LOSSY_ARTIFACT_PATH", "MAKEFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in strange}
    if folders := settings().get("find-links"):  # where this host has the CPU build of torch
        environment["CPU_WHEELS"] = " ".join(f"--find-links {folder}" for folder in folders)
    return words_of(["bash", "-ex", "-o", "pipefail", "-c", "\n".join(lines)], directory, environment)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is committed."""
    directory = tmp_path_factory.mktemp("newcomer") / "isc-template"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(directory)], check=True)
    return directory


def test_the_template_s_readme(clone: Path) -> None:
    lines = commands(clone / "README.md")
    assert {"make demo"} | RUNS_THIS <= set(lines)
    said = follow([line for line in lines if line not in RUNS_THIS], clone)
    assert "kill -9" in said
    assert re.search(r"Killed after the checkpoint of step (\d+), resumed at step \1", said)
    assert "Ready to submit: interrupted 1 time" in said
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True)
    assert status.stdout == ""


def test_the_generated_project_s_readme(clone: Path) -> None:
    """In the project that the demo has left; its environment is set up anew, as the README says."""
    project = clone / "build" / "isc-experiment"
    lines = commands(project / "README.md")
    assert {"python train.py", "torchrun --nproc-per-node=2 train.py", "python -m isc_runtime check"} <= set(
        lines
    )
    said = follow([*lines, "make lint", "make help"], project)
    assert "Training is complete" in said
    assert "Ready to submit: interrupted 2 times, its final weights are bit for bit those of" in said
    assert "isc_project_id" in said or "project is still open" in said
    assert (project / "checkpoints" / "resume.pth").exists()  # a folder, after a sharded training


def test_every_target_that_a_readme_names_exists() -> None:
    project = ROOT / "{{cookiecutter.project_slug}}"
    targets = {folder: targets_of(folder) for folder in (ROOT, project)}
    for folder in targets:
        for document in folder.glob("*.md"):
            # The template's documents tell of the targets of a project, too.
            known = targets[project] | targets[folder]
            for target in re.findall(r"`make ([a-z-]+)`", document.read_text()):
                assert target in known, f"{document.name}: make {target}"


def targets_of(folder: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (folder / "Makefile").read_text(), flags=re.MULTILINE))
