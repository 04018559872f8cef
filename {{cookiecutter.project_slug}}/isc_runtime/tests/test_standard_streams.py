"""What a process cannot say is lost, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isc_runtime.tests.processes import PROJECT

SAYS = """
import os, sys
from isc_runtime.standard_streams import outlive_streams
outlive_streams()
outlive_streams()  # once more changes nothing
file = os.open("checkpoint", os.O_WRONLY | os.O_CREAT)
for stream in (sys.stdout, sys.stderr):
    print("what is said" * 1000, file=stream, flush=True)
    stream.writelines(["a", "b"])
os.write(1, b"as a library does")
os.write(2, b"as a library does")
sys.exit(7)
"""


@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-", "2>&-"])
def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path: Path, redirection: str) -> None:
    ended = run(tmp_path, redirection)
    assert ended.returncode == 7
    assert (tmp_path / "checkpoint").read_bytes() == b""


def test_what_can_be_said_is_said(tmp_path: Path) -> None:
    ended = run(tmp_path, "2>&1")
    assert ended.returncode == 7
    assert ended.stdout.count("ab") == 2
    assert ended.stdout.count("what is said") == 2000


def run(directory: Path, redirection: str) -> subprocess.CompletedProcess[str]:
    (directory / "says.py").write_text(SAYS)
    return subprocess.run(
        ["bash", "-c", f"{sys.executable} says.py {redirection}"],
        cwd=directory,
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
