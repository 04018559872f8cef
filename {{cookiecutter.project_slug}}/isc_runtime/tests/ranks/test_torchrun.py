"""The exit code of a node: what happened to its ranks, and never 0 for a training that was stopped."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from isc_runtime.tests.processes import Ended, Place, rest_of, wait_for

RANK = """
import os, signal, sys, time
print("rank", os.environ["RANK"], "is here", flush=True)
if os.environ["RANK"] == "1":
    {ends}
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
time.sleep({seconds})
"""


def ended(directory: Path, ends: str, seconds: int = 60) -> Ended:
    """Two ranks, of which rank 1 ends in this way."""
    script = directory / "rank.py"
    script.write_text(RANK.format(ends=ends, seconds=seconds))
    return Place(directory).torchrun(script)


@pytest.mark.parametrize(
    ("ends", "code"),
    [("sys.exit(6)", 6), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
    ids=["with a code", "killed"],
)
def test_it_ends_with_the_code_of_the_rank_that_failed(tmp_path: Path, ends: str, code: int) -> None:
    node = ended(tmp_path, ends)
    assert node.code == code
    assert re.search(rf"rank 1 ended first, with exit code {code}$", node.output, re.MULTILINE)
    assert "Traceback" not in node.output


def test_a_training_that_is_complete_ends_with_0(tmp_path: Path) -> None:
    assert ended(tmp_path, "pass", seconds=0).code == 0


def test_a_training_that_is_stopped_never_ends_with_0(tmp_path: Path) -> None:
    """Not even when the ranks take the signal for a reason to end well."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(ends="pass", seconds=60))
    process = Place(tmp_path, script=script).start(ranks=2)
    wait_for(process, "is here")
    wait_for(process, "is here")
    process.send_signal(signal.SIGUSR1)
    rest_of(process)
    assert process.returncode == 128 + signal.SIGUSR1
