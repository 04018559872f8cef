"""Style, types, scripts and tests of what is generated: where it stands in the template, and baked."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import pytest

from baking import BIN, IDENTITY, ROOT, Bake, passes, run


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
    parallel = ("--numprocesses=auto", "--dist=worksteal")
    options = ["-q", "-p", "no:cacheprovider", *parallel, f"--basetemp={tmp_path / 'pytest'}"]
    passes(sys.executable, "-m", "pytest", *options, cwd=project)


def floors(table: str) -> list[list[str]]:
    """The names of the modules, floor by floor from the top: what stands before three blanks in each line."""
    lines = [re.split(" {3,}", line.strip())[0] for line in table.splitlines()]
    return [line.split() for line in lines]


def test_a_module_of_the_runtime_imports_only_from_floors_below() -> None:
    runtime = ROOT / "{{cookiecutter.project_slug}}" / "isc_runtime"
    table = re.search(r"below its own:\n\n(.*?)\n\n", (runtime / "__init__.py").read_text(), re.DOTALL)
    assert table is not None
    level = {name: number for number, names in enumerate(floors(table[1])) for name in names}
    packages = {path.parent.name for path in runtime.glob("*/__init__.py")}
    assert level.keys() == {path.stem for path in runtime.glob("*.py")} - {"__init__"} | packages
    for file in runtime.rglob("*.py"):
        module = file.relative_to(runtime).parts[0].removesuffix(".py")
        for imported in imports_from("isc_runtime", file) - ({module} & packages):
            assert level[imported] > level.get(module, 0), f"{file.name}: {imported}"


def imports_from(package: str, file: Path) -> set[str]:
    """The modules directly in a package that a file imports."""
    found = set()
    nodes = ast.walk(ast.parse(file.read_text()))
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
        outer, _, inner = f"{node.module}.".partition(f"{package}.")
        if not outer and inner:
            found.add(inner.partition(".")[0])
        elif not outer and node.module == package:
            found |= {alias.name for alias in node.names}
    return found


def test_a_module_of_the_rehearsal_imports_only_from_floors_below() -> None:
    rehearsal = ROOT / "{{cookiecutter.project_slug}}" / "isc_runtime" / "rehearsal"
    table = re.search(r"from floors below:\n\n(.*?)\n\n", (rehearsal / "__init__.py").read_text(), re.DOTALL)
    assert table is not None
    level = {name: number for number, names in enumerate(floors(table[1])) for name in names}
    assert level.keys() == {path.stem for path in rehearsal.glob("*.py")} - {"__init__"}
    for module in level:
        for imported in imports_from("isc_runtime.rehearsal", rehearsal / f"{module}.py"):
            assert level[imported] > level[module], f"{module}: {imported}"


def test_contributing_has_the_same_floors() -> None:
    runtime = ROOT / "{{cookiecutter.project_slug}}" / "isc_runtime"
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"below its own:\n\n(.*?)\n\n", (runtime / "__init__.py").read_text(), re.DOTALL)
    text = re.search(r"floors below it.\n\n```text\n(.*?)\n```", contributing, re.DOTALL)
    assert code is not None
    assert text is not None
    assert floors(text[1]) == floors(code[1])


def test_an_editor_reads_the_launch_file_with_its_schema(bake: Bake) -> None:
    project = bake()
    passes(BIN / "taplo", "lint", cwd=project)
    file = project / "experiment.isc"
    file.write_text(file.read_text().replace("gpus = 8", "gpus = 17"))
    result = run(BIN / "taplo", "lint", cwd=project)
    assert result.returncode == 1
    assert "17 is greater than the maximum of 16" in result.stderr


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
    result = run(*commit, cwd=project, PATH=path)
    assert result.returncode == 1
    for what in ("99 is no possible number of GPUs", "Module level import", "would be reformatted", "Passed"):
        assert what in result.stderr + result.stdout
