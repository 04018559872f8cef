"""What GitHub reads: workflows, issue forms, dependabot; of the template and of what it generates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tomllib
import yaml

from baking import BIN, passes


@pytest.fixture(params=[".", "{{cookiecutter.project_slug}}"])
def tree(request: pytest.FixtureRequest, template: Path) -> Path:
    return template / str(request.param)


def test_zizmor(tree: Path) -> None:
    passes(BIN / "zizmor", "--offline", "--quiet", ".github", cwd=tree)


def test_actions_are_pinned_by_commit(tree: Path) -> None:
    texts = [file.read_text() for file in tree.glob(".github/workflows/*.yml")]
    lines = [line for text in texts for line in text.splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d", line), line


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", "**/.github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("dependabot", ".github/dependabot.yml"),
    ],
)
def test_github_understands_it(template: Path, schema: str, pattern: str) -> None:
    found = [*template.glob(pattern)]
    assert found
    passes(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *found, cwd=template)


def test_what_workflows_run_exists(tree: Path) -> None:
    makefiles = [tree / "Makefile", *tree.glob("*cookiecutter*/Makefile")]  # ci.yml runs a project's, too
    targets = {
        name for file in makefiles for name in re.findall(r"^([a-z-]+):", file.read_text(), re.MULTILINE)
    }
    texts = [file.read_text() for file in tree.glob(".github/workflows/*.yml")]
    used = {name for text in texts for name in re.findall(r"\bmake ([a-z-]+)", text)}
    assert "check" in used
    assert used <= targets


def test_the_generated_ci_runs_the_runtime_s_tests_when_they_may_have_changed(template: Path) -> None:
    folder = template / "{{cookiecutter.project_slug}}" / ".github" / "workflows"
    own, runtime = (yaml.safe_load((folder / name).read_text()) for name in ("ci.yml", "runtime.yml"))
    assert own[True].keys() == {"push", "pull_request"}  # YAML 1.1 reads `on` as true
    assert not any(own[True].values()), "on every push, whatever it changes"
    assert "schedule" in runtime[True]
    for event in ("push", "pull_request"):
        paths = runtime[True][event]["paths"]
        assert {"isc_runtime/**", "requirements*"} <= set(paths)
        assert all(list(template.glob(f"{folder.parents[1].name}/{path}")) for path in paths)
    for job, target in (
        (own["jobs"]["test"], "make test"),
        (runtime["jobs"]["test-runtime"], "make test-runtime"),
    ):
        assert target in [step.get("run") for step in job["steps"]]


PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


@pytest.mark.parametrize(
    ("file", "job"),
    [
        (".github/workflows/ci.yml", "project"),
        ("{{cookiecutter.project_slug}}/.github/workflows/ci.yml", "test"),
        ("{{cookiecutter.project_slug}}/.github/workflows/runtime.yml", "test-runtime"),
    ],
)
def test_all_pythons_are_tried_and_a_mac(template: Path, file: str, job: str) -> None:
    matrix = yaml.safe_load((template / file).read_text())["jobs"][job]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    table = tomllib.loads((template / "{{cookiecutter.project_slug}}" / "pyproject.toml").read_text())
    assert table["project"]["requires-python"] == f">={PYTHONS[0]}"
    if job != "test-runtime":  # much of the runtime's tests needs Linux: /proc, process groups of a rehearsal
        assert [one["runner"] for one in matrix["include"] if one["runner"].startswith("macos")]


def test_dependabot_makes_one_pull_request_of_each_kind(tree: Path) -> None:
    updates = yaml.safe_load((tree / ".github" / "dependabot.yml").read_text())["updates"]
    assert updates
    for update in updates:
        assert [group["patterns"] for group in update["groups"].values()] == [["*"]]


def test_the_devcontainer_is_the_image(project: Path) -> None:
    container = json.loads((project / ".devcontainer" / "devcontainer.json").read_text())
    folder = project / ".devcontainer"
    assert (folder / container["build"]["dockerfile"]).resolve() == project / "Dockerfile"
    assert (folder / container["build"]["context"]).resolve() == project
    assert f"WORKDIR {container['workspaceFolder']}\n" in (project / "Dockerfile").read_text()
    assert f",target={container['workspaceFolder']}," in container["workspaceMount"]
    assert container["postCreateCommand"] == "make setup"
    installed = re.findall(r"no-install-recommends \\\n +(.+) \\", (project / "Dockerfile").read_text())
    assert "make" in installed[0].split()
    recommended = json.loads((project / ".vscode" / "extensions.json").read_text())["recommendations"]
    assert container["customizations"]["vscode"]["extensions"] == recommended


def test_the_image_the_check_and_ci_have_one_python(project: Path) -> None:
    version = (project / ".python-version").read_text().strip()
    assert "debian:bookworm" in (project / "Dockerfile").read_text(), "bookworm has 3.11"
    assert version == "3.11"
