"""A release is what cookiecutter.json and CHANGELOG.md agree on."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from baking import ROOT, git, run

CHANGELOG = """# Changelog

## [{}

### Added

- One thing.

### Updating from 1.1.0

- Do this.

## [1.1.0] - 2026-11-24

- Another.
"""


def release(place: Path, word: str, heading: str, number: str = "1.2.0") -> tuple[int, str]:
    """The exit code of .ci/release.py, and what it says, in a repository with this heading and number."""
    (place / ".ci").mkdir(exist_ok=True)
    (place / ".ci" / "release.py").write_bytes((ROOT / ".ci" / "release.py").read_bytes())
    (place / "CHANGELOG.md").write_text(CHANGELOG.format(heading))
    (place / "cookiecutter.json").write_text(json.dumps({"_template_version": number}))
    result = run(sys.executable, place / ".ci" / "release.py", word, cwd=place.parent)
    return result.returncode, result.stdout + result.stderr


def test_version_and_notes(tmp_path: Path) -> None:
    heading = "1.2.0] - 2026-12-01"
    assert release(tmp_path, "version", heading) == (0, "1.2.0\n")
    notes = "### Added\n\n- One thing.\n\n### Updating from 1.1.0\n\n- Do this.\n"
    assert release(tmp_path, "notes", heading) == (0, notes)


@pytest.mark.parametrize("word", ["version", "notes"])
@pytest.mark.parametrize("heading", ["Unreleased]", "1.2.0]", "1.2.0] - soon", "1.3.0] - 2026-12-01"])
def test_what_is_not_ready_is_not_released(tmp_path: Path, word: str, heading: str) -> None:
    code, said = release(tmp_path, word, heading)
    assert code == 1
    assert said == "CHANGELOG.md: The first heading is not that of 1.2.0. Write: ## [1.2.0] - YYYY-MM-DD\n"


def test_an_unknown_word_shows_what_there_is(tmp_path: Path) -> None:
    code, said = release(tmp_path, "x", "1.2.0] - 2026-12-01")
    assert code == 1
    assert "release.py notes" in said


def test_each_version_s_changes_say_how_to_update(template: Path) -> None:
    """Of every version but the first: what somebody has to do who takes it over."""
    text = (template / "CHANGELOG.md").read_text()
    sections = text.split("\n## [")[1:]
    for section, older in pairwise(sections):
        assert f"### Updating from {older.partition(']')[0]}\n" in section


def test_the_tag_is_what_a_bake_looks_for(template: Path) -> None:
    workflow = (template / ".github" / "workflows" / "release.yml").read_text()
    assert 'gh release create "v$version"' in workflow
    assert "--match=v[0-9]*" in (template / "isc_template_version.py").read_text()
    assert git("check-attr", "export-subst", "isc_template_commit.txt", cwd=template).endswith(": set\n")
