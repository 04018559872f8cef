"""docs/what-the-isc-does.md: its commands are run, and what it quotes is what is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Project

PAGE = ROOT / "docs" / "what-the-isc-does.md"
SOURCES = ROOT / "{{cookiecutter.project_slug}}"


def blocks(kind: str) -> list[str]:
    """The blocks of one kind on the page."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_every_command_on_the_page_runs(project: Project) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("ARTIFACT_PATH")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    assert len(blocks("bash")) == 2
    ended = subprocess.run(
        ["bash", "-ex", "-o", "pipefail", "-c", "".join(blocks("bash"))],
        cwd=project.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said[-5000:]
    assert said.count("Ready to submit: interrupted 1 time") == 2
    assert (
        len(
            re.findall(
                r"From the start of the command, at most in a cycle of 90 s: .* s to the first step, ", said
            )
        )
        == 2
    )
    assert re.search(r"s to the first completed save, [0-9.]+ s from SIGTERM to the end\.", said)
    assert said.count("On this machine no cycle would come to a save with batches of") == 2
    assert "A resume takes AtomicDirectory_checkpoint_" in said
    assert re.search(r"It starts from the artifact \S+artifact, at step 60", said)


SAY = """
import os
from isc_runtime.__main__ import _say_how_to_go_on
from isc_runtime.checkpointing.on_disk.start_notes import Start
from isc_runtime.checkpointing.stores.starts import reasons_of
from isc_runtime.rehearsal.pace import Pace

def because(is_fresh=False, **known):
    print(*reasons_of(Start(seen=88.0, **known), is_fresh))

because(started=81.0, batches=1, is_saving=True)
because()
because(started=9.0, failed=2, is_evaluating=True)
because(True, started=9.0)
print(*Pace(90.0, 4.1, 4.2, 0.9, 0.009, 1, 339_000, 0.09393).words())
os.environ["LOSSY_ARTIFACT_PATH"] = "/somewhere"
_say_how_to_go_on(6, is_local=False)
"""


def test_what_the_page_quotes_is_what_is_said() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SAY],
        cwd=SOURCES,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    said = " ".join(ended.stdout.split())
    started, *others = (" ".join(block.split()) for block in blocks("text"))
    head = (
        "[START] This is start 2 from step 120: the one before has saved nothing. "  # as test_starts has it
    )
    assert started.startswith(head)
    table = PAGE.read_text().partition("| what it says |")[2].partition("\n\n")[0]
    reasons = [row.split("|")[1].strip() for row in table.splitlines()[2:]]
    assert len(reasons) == 7
    for quoted in (started.removeprefix(head), *others, *(reason.replace("`", "") for reason in reasons)):
        assert quoted in said, quoted


def test_every_option_and_exit_code_that_the_page_names_exists() -> None:
    known = "".join(path.read_text() for path in [*SOURCES.rglob("*.py"), SOURCES / "README.md"])
    for option in set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text())):
        assert f'"{option}"' in known, option
    readme = (SOURCES / "README.md").read_text()
    assert "| 10 | several starts in a row have saved nothing |" in readme
