"""What GitHub reads: workflows, issue forms, dependabot; of the template and of what it generates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    targets = set(re.findall(r"^([a-z]+):", (tree / "Makefile").read_text(), re.MULTILINE))
    texts = [file.read_text() for file in tree.glob(".github/workflows/*.yml")]
    used = {name for text in texts for name in re.findall(r"\bmake ([a-z]+)", text)}
    assert used
    assert used <= targets
