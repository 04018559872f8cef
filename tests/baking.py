"""How the tests bake and run things."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[1]
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
