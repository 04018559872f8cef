"""What GitHub reads: workflows, issue forms, dependabot; of the template and of what it generates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
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
    targets = set(re.findall(r"^([a-z-]+):", (tree / "Makefile").read_text(), re.MULTILINE))
    texts = [file.read_text() for file in tree.glob(".github/workflows/*.yml")]
    used = {name for text in texts for name in re.findall(r"\bmake ([a-z-]+)", text)}
    assert used
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
    for steps, target in (
        (own["jobs"]["test"], "make test"),
        (runtime["jobs"]["test-runtime"], "make test-runtime"),
    ):
        assert steps["steps"][-1]["run"] == target
