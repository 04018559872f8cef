"""Bakes a project, and rehearses copies of it: as it is, and with mistakes planted in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parents[2]
PROJECT_ID = "prj-quiet-river-261124"


@dataclass(frozen=True)
class Rehearsed:
    """A rehearsal that has ended.

    Attributes:
        code: its exit code.
        said: what it said to people.
        verdict: what it said to machines; empty if it did not come to a verdict.
    """

    code: int
    said: str
    verdict: dict[str, Any]

    @property
    def errors(self) -> list[str]:
        """The reasons for which the project is not ready."""
        findings = self.verdict["findings"]
        return [f"{f['where']}: {f['what']}. {f['hint']}" for f in findings if f["severity"] == "error"]

    @property
    def warnings(self) -> list[str]:
        """What a person is to judge."""
        findings = self.verdict["findings"]
        return [f"{f['where']}: {f['what']}. {f['hint']}" for f in findings if f["severity"] == "warning"]


@dataclass(frozen=True)
class Project:
    """A copy of the baked project, to plant mistakes in and to rehearse.

    Attributes:
        path: where it is.
    """

    path: Path

    def change(self, file: str, old: str, new: str) -> None:
        """Replaces a text, which has to be there."""
        text = (self.path / file).read_text()
        assert old in text, f"{file} holds no {old!r}"
        (self.path / file).write_text(text.replace(old, new))

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Starts a rehearsal."""
        arguments = list(options)
        at = arguments.index("--") if "--" in arguments else len(arguments)
        arguments[at:at] = ["--json", *([] if HAS_THE_REAL_ONE else ["--stand-in"])]
        return subprocess.Popen(
            [sys.executable, "-m", "isc_runtime", "rehearse", *arguments],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_heed_interrupts,
        )

    def rehearse(self, *options: str) -> Rehearsed:
        """Rehearses; nothing of it may be left but its folder."""
        process = self.start(*options)
        out, said = process.communicate()
        assert processes_in(self.path) == []
        return Rehearsed(process.returncode, said, json.loads(out) if out else {})

    @property
    def folders(self) -> list[Path]:
        """Those of its rehearsals."""
        return sorted((self.path / "rehearsals").glob("*"))


def _heed_interrupts() -> None:
    """Of a shell's background jobs SIGINT is ignored, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def has_the_real_one() -> bool:
    """Whether cycling_utils can be imported here; if it has to be, that it can."""
    command = [sys.executable, "-c", "import cycling_utils"]
    found = subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert found or os.environ.get("CYCLING_UTILS") != "real", "CYCLING_UTILS=real, and it cannot be imported"
    return found


HAS_THE_REAL_ONE = has_the_real_one()


def processes_in(directory: Path) -> list[str]:
    """The processes that have a path in `directory` in their environment, or were started there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{directory}/rehearsals/".encode() in environment or f"{directory}/rehearsals/" in command:
            found.append(command)
    return found


def pytest_report_header() -> str:
    """Says in every test log which cycling_utils it was."""
    return f"cycling_utils: {'real' if HAS_THE_REAL_ONE else 'stand-in'}"


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that the defaults give, with an id to submit it under."""
    output = str(tmp_path_factory.mktemp("baked"))
    answers = {"isc_project_id": PROJECT_ID, "project_name": "Night owls", "project_slug": "isc-experiment"}
    return Path(cookiecutter(str(ROOT), no_input=True, output_dir=output, extra_context=answers))


@pytest.fixture
def project(baked: Path, tmp_path: Path) -> Iterator[Project]:
    """A copy of it."""
    copy = Path(shutil.copytree(baked, tmp_path / baked.name, ignore=shutil.ignore_patterns(".git")))
    yield Project(copy)
    shutil.rmtree(copy)  # checkpoints and all: pytest keeps the folders of three sessions


Plant = Callable[[Project], None]
