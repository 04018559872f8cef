"""The scanner that git runs before a commit: what it finds with the options in .pre-commit-config.yaml."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.submission.contents.dockerfile import copied_files
from isc_runtime.tests.submission.planted import TOKENS, notebook, ordinary_files

pytest.importorskip("detect_secrets", reason="make setup brings it")

PROJECT = Path(__file__).resolve().parents[3]


def scan(files: list[Path]) -> dict[str, Any]:
    """What the hook finds, by file."""
    text = (PROJECT / ".pre-commit-config.yaml").read_text()
    (entry,) = re.findall(r"id: detect-secrets\n.*?entry: >-\n(.*?)\n +language:", text, re.DOTALL)
    program, *options = shlex.split(entry)
    assert program == "python"
    ended = subprocess.run(
        [sys.executable, *options, "--json", *map(str, files)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    assert (ended.returncode == 1) == bool(ended.stdout.strip())
    found: dict[str, Any] = json.loads(ended.stdout)["results"] if ended.stdout.strip() else {}
    return found


def test_it_finds_all_that_is_planted(tmp_path: Path) -> None:
    files = {}
    for number, (kind, token) in enumerate(TOKENS.items()):
        for name, text in (
            (f"{number}.py", f'key = """{token}"""\n'),
            (f"{number}.cfg", f"KEY={token}\n"),
            (f"{number}.ipynb", notebook([f"key = {line}" for line in token.splitlines()])),
        ):
            (tmp_path / name).write_text(text)
            files[str(tmp_path / name)] = kind
    found = scan([Path(file) for file in files])
    assert {file: kind for file, kind in files.items() if file not in found} == {}


def test_a_hundred_ordinary_files_are_no_alarm(tmp_path: Path) -> None:
    assert scan(ordinary_files(tmp_path, 100)) == {}


def test_this_project_is_clean() -> None:
    """Its lock with all the hashes, and these tests, too."""
    assert scan([PROJECT / path for path, _ in copied_files(PROJECT)]) == {}
