"""A newcomer with nothing but Debian follows the READMEs: every command in them is run, as it stands there.

From the first line to a rehearsed project, in a root folder in which nothing is installed, by a person who is
not root.

`bash` blocks are run, in one shell and in their order. `text` blocks are output, or commands that need the
ISC or an answer from a person: those are compared with what exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from readmes import commands, gigabytes, in_words_of, stated

from baking import ROOT, git, words_of
from empty_machine import MISSING, EmptyMachine, debian
from host_pip import settings

NEAR = 0.15  # "1.6 GB" may be 1.4 or 1.8: it changes with each release of torch
RUNS_THIS = {"make test"}  # the tests that CI runs before these; once is enough


class ThisHost:
    """Where no empty machine can be made: a home of one's own, with what is installed here."""

    def __init__(self, home: Path) -> None:
        self.home = str(home)

    def path(self, place: str) -> Path:
        return Path(place)

    def serve(self, repository: Path) -> str:
        address = f"{self.home}/served/isc-template.git"
        git("clone", "-q", "--bare", str(repository), address, cwd=repository)
        return address

    def follow(self, lines: list[str], directory: str) -> str:
        strange = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LOSSY_ARTIFACT_PATH", "MAKEFLAGS")
        environment = {name: value for name, value in os.environ.items() if name not in strange}
        if folders := settings().get("find-links"):  # where this host has the CPU build of torch
            environment["CPU_WHEELS"] = " ".join(f"--find-links {folder}" for folder in folders)
        command = ["bash", "-ex", "-o", "pipefail", "-c", "\n".join(lines)]
        return words_of(command, Path(directory), environment)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmptyMachine | ThisHost]:
    """Someone with nothing but Debian, who installs what the README names, in its words."""
    place = tmp_path_factory.mktemp("newcomer")
    if MISSING:
        yield ThisHost(place)
        return
    machine = EmptyMachine(place / "root", debian("bookworm"))
    (needed,) = re.findall(r"Debian: `(apt install [^`]+)`", (ROOT / "README.md").read_text())
    machine.as_root(needed)
    yield machine
    machine.remove()


def test_the_template_s_readme(newcomer: EmptyMachine | ThisHost) -> None:
    lines = commands(ROOT / "README.md")
    assert {"make demo"} | RUNS_THIS <= set(lines)
    clone = in_words_of(ROOT / "README.md", "git clone ", newcomer.serve(ROOT))
    said = newcomer.follow([clone, *(line for line in lines if line not in RUNS_THIS)], newcomer.home)
    assert "kill -9" in said
    assert re.search(r"Killed after the checkpoint of step (\d+), resumed at step \1", said)
    assert "Ready to submit: interrupted 1 time" in said
    newcomer.follow(['test -z "$(git status --porcelain)"'], f"{newcomer.home}/isc-template")
    taken = gigabytes(newcomer.path(f"{newcomer.home}/isc-template/.venv"))
    print(f"isc-template: {taken:.2f} GB")
    assert taken == pytest.approx(stated(ROOT / "README.md", r"\| disk \| ([\d.]+) GB"), rel=NEAR)


def test_the_generated_project_s_readme(newcomer: EmptyMachine | ThisHost) -> None:
    """In the project that the demo has left; its environment is set up anew, as the README says."""
    place = f"{newcomer.home}/isc-template/build/isc-experiment"
    project = newcomer.path(place)
    lines = commands(project / "README.md")
    assert {"python train.py", "torchrun --nproc-per-node=2 train.py", "python -m isc_runtime check"} <= set(
        lines
    )
    said = newcomer.follow([*lines, "make lint", "make help"], place)
    assert "Training is complete" in said
    assert "Ready to submit: interrupted 2 times, its final weights are bit for bit those of" in said
    assert "isc_project_id" in said or "project is still open" in said
    assert (project / "checkpoints" / "resume.pth").exists()  # a folder, after a sharded training
    taken = gigabytes(project / ".venv")
    print(f"a project, for CPUs: {taken:.2f} GB")
    assert taken == pytest.approx(stated(project / "README.md", r"([\d.]+) GB of disk for torch"), rel=NEAR)


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
