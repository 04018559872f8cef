"""Style, types, scripts and tests of what is generated: where it stands in the template, and baked."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import pytest
import tomllib

from baking import BIN, IDENTITY, Bake, passes, run


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


def test_the_floors_of_the_runtime(tree: Path) -> None:
    passes(BIN / "lint-imports", "--no-cache", cwd=tree)


def test_each_wing_names_its_modules_and_imports_nothing(bake: Bake) -> None:
    """So that what answers before torch does, whatever wing it is in."""
    project = bake()
    contracts = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    wings = [one for one in contracts if one["type"] == "layers" and one["containers"] != ["isc_runtime"]]
    assert len(wings) > 6
    for wing in wings:
        manual = ast.parse((project / wing["containers"][0].replace(".", "/") / "__init__.py").read_text())
        words = re.findall(r"\w+", ast.get_docstring(manual) or "")
        modules = {name for floor in wing["layers"] for name in floor.split(" | ")}
        assert modules <= set(words), wing["name"]
        assert len(manual.body) == 1, "it imports nothing"


def test_shellcheck(tree: Path) -> None:
    passes(BIN / "shellcheck", "launch.sh", cwd=tree)


def test_hadolint(tree: Path) -> None:
    passes(BIN / "hadolint", "Dockerfile", cwd=tree)


def test_its_own_tests_pass(project: Path, tmp_path: Path) -> None:
    processes = 3 * (os.cpu_count() or 2) // 2  # they wait half of the time, for others to start
    parallel = (f"--numprocesses={processes}", "--dist=worksteal")
    options = ["-q", "-p", "no:cacheprovider", *parallel, f"--basetemp={tmp_path / 'pytest'}"]
    passes(sys.executable, "-m", "pytest", *options, "tests", "isc_runtime/tests", cwd=project)


def test_an_editor_reads_the_launch_file_with_its_schema(bake: Bake) -> None:
    project = bake()
    passes(BIN / "taplo", "lint", cwd=project)
    file = project / "experiment.isc"
    file.write_text(file.read_text().replace("gpus = 8", "gpus = 73"))
    result = run(BIN / "taplo", "lint", cwd=project)
    assert result.returncode == 1
    assert "73 is greater than the maximum of 72" in result.stderr


def test_pre_commit_runs_the_check_and_the_linters_before_a_commit(bake: Bake) -> None:
    """Installed as `make hooks` does it: no network, and the tools are those of the environment."""
    project = bake()
    commit = ("git", *IDENTITY, "commit", "--all", "-m", "x")
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    passes("make", "hooks", f"PYTHON={sys.executable}", cwd=project)
    result = run(*commit, cwd=project, PATH=path)
    assert result.returncode == 0, result.stderr
    file = project / "experiment.isc"
    file.write_text(file.read_text().replace("gpus = 8", "gpus = 99"))
    model = project / "model.py"
    model.write_text(model.read_text() + "import   os\n")
    token = "xox" + "b-123456789012-123456789012-" + "abcdefghijklmnopqrstuvwx"
    data = project / "data.py"
    data.write_text(f'{data.read_text()}SLACK = "{token}"\n')
    result = run(*commit, cwd=project, PATH=path)
    assert result.returncode == 1
    secret = ("It holds what looks like a Slack token, and git has it", "Secret Type: Slack Token")
    for what in (
        *("99 is no possible number of GPUs", "Module level import", "would be reformatted", "Passed"),
        *secret,
    ):
        assert what in result.stderr + result.stdout
