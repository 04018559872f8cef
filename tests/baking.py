"""How the tests bake and run things."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


class Bake(Protocol):
    """Bakes a project with these answers, the others being the defaults, and says where it is."""

    def __call__(self, *, hooks: bool = True, **answers: str) -> Path: ...


def literal(answer: str) -> str:
    """`answer` as cookiecutter has to be given it from outside, for it renders that: as a Jinja literal."""
    return "{{ " + ascii(answer) + " }}"


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with these variables besides our own."""
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def git(*arguments: str, cwd: Path) -> str:
    """What git says; it has to succeed."""
    return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True).stdout


def passes(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Runs a command that has to succeed, with these variables too; shows what it said if it does not."""
    result = run(*command, cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout + result.stderr


def create(template: Path, place: Path, *options: str) -> Path:
    """What cookiecutter writes in this folder from this template."""
    result = run(sys.executable, "-m", "cookiecutter", "--no-input", *options, template, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    return place / "isc-experiment"


def commit(clone: Path, name: str, text: str) -> str:
    """Commits one more file of the template; returns the seven digits of the commit."""
    (clone / name).write_text(text)
    git("add", "--all", cwd=clone)
    git(*IDENTITY, "commit", "-q", "-m", "More", cwd=clone)
    return git("rev-parse", "--short=7", "HEAD", cwd=clone).strip()


def files(project: Path) -> dict[str, Path]:
    """The files of a project by their names in it, git's own aside."""
    found = (path for path in project.rglob("*") if path.is_file())
    return {str(path.relative_to(project)): path for path in found if ".git" not in path.parts}


def words_of(command: Sequence[str], cwd: Path, environment: dict[str, str]) -> str:
    """What a command says, with no input and in just this environment; it has to succeed."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
    return ended.stdout
