"""The pages of docs/: each command in them is run, what they quote is what is said, what they name exists."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from baking import BIN, ROOT, words_of

PROJECT = ROOT / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))

from isc_runtime.__main__ import main  # noqa: E402
from isc_runtime.submission.facts import facts  # noqa: E402

PAGES = {page.name: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}
ALL = {**PAGES, "README.md": (ROOT / "README.md").read_text(), "project": (PROJECT / "README.md").read_text()}
LONG = r"torchrun |make |python3 -m venv |\.venv/bin/|echo "
ELSEWHERE = "what-the-isc-does.md"  # its commands are run in tests/rehearsal/test_page.py
CODE = "".join(file.read_text() for file in PROJECT.rglob("*.py"))
MAKEFILES = (ROOT / "Makefile", PROJECT / "Makefile")
OTHERS = {  # options of other programs; and two of import, whose names are put together
    *("--no-input", "--replay", "--output-dir", "--extra-context", "--config-file", "--python"),
    *("--no-deps", "--require-hashes", "--build-arg", "--max-restarts", "--signals-to-handle"),
    *("--extra", "--backend-store-uri"),
    *("--optimizer", "--scheduler"),
}


def blocks(text: str, kind: str) -> list[str]:
    """The blocks of one kind in a text."""
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE)


def known() -> set[str]:
    """The lines of the READMEs, which tests/newcomer runs."""
    readmes = "".join(block for name in ("README.md", "project") for block in blocks(ALL[name], "bash"))
    return {line.strip() for line in readmes.splitlines()}


def script(page: str) -> str:
    """The commands of a page, but for those of the READMEs that need an installation or a minute."""
    lines = "".join(blocks(PAGES[page], "bash")).splitlines()
    return "\n".join(line for line in lines if not (line in known() and re.match(LONG, line)))


def plain(text: str) -> str:
    """A text without what changes from run to run: numbers, and how wide columns are."""
    return " ".join(re.sub(r"\d+", "0", text).split())


def keys(page: str, head: str) -> set[str]:
    """What is in the first column of a table."""
    rows = PAGES[page].partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def run_page(page: str, project: Path, folder: Path) -> str:
    """What the commands of a page say, in one shell and a fresh project."""
    shutil.copytree(project, folder, symlinks=True)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("ARTIFACT_PATH")}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    return plain(words_of(["bash", "-e", "-o", "pipefail", "-c", script(page)], folder, environment))


def test_checkpoints(project: Path, tmp_path: Path) -> None:
    page = "checkpoints.md"
    said = run_page(page, project, tmp_path / "project")
    quoted = [line for block in blocks(PAGES[page], "text") for line in block.splitlines()]
    assert len(quoted) > 10
    for line in quoted:
        assert plain(line) in said, line
    assert f"keys {' '.join(sorted(keys(page, '| key | what it holds |')))}" in said
    assert "damaged" in said
    assert said.count("- INFO - Resumed from ") == 1


def test_for_teams(project: Path, tmp_path: Path) -> None:
    said = run_page("for-teams.md", project, tmp_path / "project")
    assert "isc train experiment-learning-rate" in said
    assert keys("for-teams.md", "| key | |") == {"time", "rehearsal", *facts(project)}


def test_many_gpus(project: Path, tmp_path: Path) -> None:
    said = run_page("many-gpus.md", project, tmp_path / "project")
    assert "on other numbers of ranks, and every sample of an epoch was seen" in said


def test_no_other_page_has_commands_that_nobody_tries() -> None:
    tried = {"checkpoints.md", "for-teams.md", "many-gpus.md", ELSEWHERE}
    others = "".join(block for page in PAGES if page not in tried for block in blocks(PAGES[page], "bash"))
    assert others
    assert set(others.splitlines()) <= known()


@pytest.mark.parametrize("page", ALL)
def test_what_a_page_names_exists(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.search(r"\{(.*?)\}", capsys.readouterr().out)
    assert commands
    named = set(re.findall(r"python -m isc_runtime ([a-z]+)", ALL[page]))
    assert named <= set(commands[1].split(","))
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", ALL[page]))
    assert {option for option in options if f'"{option}"' not in CODE} <= OTHERS
    targets = {
        name for file in MAKEFILES for name in re.findall(r"^([a-z-]+):", file.read_text(), re.MULTILINE)
    }
    assert set(re.findall(r"`make ([a-z-]+)", ALL[page])) <= targets
