"""What a command prints may be cut short, be unwanted or have no room: without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isc_runtime.tests.processes import PROJECT

COMMANDS = ("isc_runtime checkpoints .", "isc_runtime checkpoints . --json", "train --print-config")
PROGRAM = """
from isc_runtime import options
parser = options.make_parser("A program.")
parser.add_argument("--name")
options.add_runtime_options(parser)
print(options.parse(parser))
"""


def run(
    directory: Path, command: str, redirection: str, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    (directory / "train.py").write_text(PROGRAM)
    script = f"{sys.executable} -m {command} {redirection}; exit ${{PIPESTATUS[0]}}"
    variables = {
        "PYTHONPATH": str(PROJECT),
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    return subprocess.run(
        ["bash", "-c", script], cwd=directory, env=variables, capture_output=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_whoever_closes_it_gets_the_exit_code_alone(tmp_path: Path, command: str) -> None:
    expected = run(tmp_path, command, "")
    ended = run(tmp_path, command, ">&-")
    assert expected.stdout
    assert (ended.returncode, ended.stdout, ended.stderr) == (expected.returncode, b"", expected.stderr)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("is_unbuffered", "code"), [("", 0), ("1", 141)])  # "": all was done before
def test_a_reader_may_leave(tmp_path: Path, command: str, is_unbuffered: str, code: int) -> None:
    ended = run(tmp_path, command, "| true", PYTHONUNBUFFERED=is_unbuffered)
    assert (ended.returncode, ended.stderr) == (code, b"")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
def test_an_answer_that_is_lost_is_no_success(tmp_path: Path, command: str) -> None:
    ended = run(tmp_path, command, ">/dev/full")
    said = ended.stderr.decode()
    assert said.startswith("ERROR: The answer cannot be written (No space left on device): standard output.")
    assert said.count("\n") == 1
    assert ended.returncode == 3


def test_a_config_is_utf_8_whatever_the_terminal_shows(tmp_path: Path) -> None:
    ended = run(tmp_path, "train --print-config --name \u00e4", "", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert 'name = "\u00e4"' in ended.stdout.decode()
