"""Style, types, scripts and tests of what is generated: where it stands in the template, and baked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from baking import BIN, passes


@pytest.fixture(params=["template", "project"])
def tree(request: pytest.FixtureRequest) -> Path:
    """The generated project's code, where it stands in the template and baked."""
    place: Path = request.getfixturevalue(request.param)
    return place / "{{cookiecutter.project_slug}}" if request.param == "template" else place


def test_ruff(tree: Path) -> None:
    passes(BIN / "ruff", "check", "--no-cache", ".", cwd=tree)
    passes(BIN / "ruff", "format", "--no-cache", "--check", ".", cwd=tree)


def test_mypy(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "mypy"  # one for both trees: what takes time is torch
    passes(BIN / "mypy", "--strict", "--cache-dir", cache, ".", cwd=tree)


def test_shellcheck(tree: Path) -> None:
    passes(BIN / "shellcheck", "launch.sh", cwd=tree)


def test_hadolint(tree: Path) -> None:
    passes(BIN / "hadolint", "Dockerfile", cwd=tree)


def test_its_own_tests_pass(project: Path, tmp_path: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--numprocesses=auto", f"--basetemp={tmp_path / 'pytest'}"]
    passes(sys.executable, "-m", "pytest", *options, cwd=project)
