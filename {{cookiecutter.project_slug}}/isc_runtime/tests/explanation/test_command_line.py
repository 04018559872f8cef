"""python -m isc_runtime explain: what it takes, what it gives back, and that it needs no torch."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isc_runtime.__main__ import main
from isc_runtime.errors import ExitCode
from isc_runtime.explanation.command_line import read
from isc_runtime.tests.processes import PROJECT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """In a Python without any package: what is not in the standard library is not there."""
    command = [sys.executable, "-S", "-m", "isc_runtime", "explain", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def refused() -> bytes:
    """What launch.sh says without its variables."""
    command = ["bash", str(PROJECT / "launch.sh")]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False).stderr


def test_it_fails_with_one_and_needs_the_standard_library_only(tmp_path: Path) -> None:
    (tmp_path / "rank_0.txt").write_bytes(refused())
    ended = run(tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert "Environment variables are not set" in ended.stdout
    content = json.loads(run(tmp_path, "--json").stdout)
    assert content["outcome"] == "failed"
    assert content["first"]["shown_at"]["line"] == 1
    assert content["first"]["node"] == 0


@pytest.mark.parametrize("names", [[], ["none.txt"], ["empty.txt"], ["folder"]])
def test_no_log_is_an_error(names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["explain", *(str(tmp_path / name) for name in names)])
    said = capsys.readouterr().err
    assert stop.value.code == (ExitCode.UNFIT if names else ExitCode.USAGE)
    assert "rank_0.txt" in said or not names
    assert "Traceback" not in said


def test_a_text_that_is_no_log_fails_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "notes.txt"
    log.write_text("Dear diary,\nnothing happened.\n")
    assert main(["explain", str(log)]) == ExitCode.FAILED
    said = capsys.readouterr().out
    assert "Nothing in these logs is known" in said
    assert "notes.txt:2" in said


def test_logs_of_one_name_in_several_folders(tmp_path: Path) -> None:
    """As a rehearsal leaves them: a folder for each cycle. A node's logs follow each other."""
    for cycle in ("cycle_1", "cycle_2", "cycle_10"):
        (tmp_path / cycle).mkdir()
        for node in (0, 1):
            (tmp_path / cycle / f"node_{node}.log").write_bytes(refused())
    found = read([tmp_path])
    assert [(node.number, node.starts) for node in found.nodes] == [(0, 3), (1, 3)]
    assert found.first is not None
    assert found.first.file == str(tmp_path / "cycle_10" / "node_0.log")


def test_only_what_may_be_a_log_is_read_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with its environment, with what pip reads, and folders that cannot be listed, as in /proc."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "gone").mkdir()
    for name in (
        "venv/pyvenv.cfg",
        "venv/top_level.txt",
        "requirements-cycling-utils.txt",
        "constraints.txt",
    ):
        (tmp_path / name).write_text("numpy==1\n")
    (tmp_path / "runs" / "one" / "train.log").write_bytes(refused())
    os.mkfifo(tmp_path / "runs" / "pipe.log")
    scandir = os.scandir

    def listed(folder: str) -> object:
        if Path(folder).name == "gone":
            raise OSError(errno.EINVAL, "Invalid argument")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", listed)
    found = read([tmp_path])
    assert [node.starts for node in found.nodes] == [1]
    assert found.first is not None
    assert found.first.file == "train.log"


def test_what_may_have_no_end_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.log")
    for name in (str(tmp_path / "pipe.log"), "/dev/zero"):
        with pytest.raises(SystemExit) as stop:
            main(["explain", name])
        assert stop.value.code == ExitCode.UNFIT
        assert f"This is no plain file: it may have no end: {name}. Name the logs" in capsys.readouterr().err


def test_what_another_program_writes_is_read(tmp_path: Path) -> None:
    log = tmp_path / "rank_0.txt"
    log.write_bytes(refused())
    told = f"{sys.executable} -S -m isc_runtime explain <(cat {log})"
    ended = subprocess.run(["bash", "-c", told], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Environment variables are not set" in ended.stdout


@pytest.mark.parametrize("words", [["explain", ""], ["checkpoints", ""], ["export", "x", ""], ["import", ""]])
def test_a_path_that_is_empty_is_not_the_current_folder(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == ExitCode.USAGE
    assert "it is empty (a variable that is not set?)" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    (tmp_path / "rank_0.txt").write_bytes(refused())
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-S", "-m", "isc_runtime", "explain", str(tmp_path)]
    ended = subprocess.run(command, cwd=PROJECT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_name_that_cannot_be_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a\x1b[31m\nb.txt"
    log.write_bytes(refused())
    assert main(["explain", str(log)]) == ExitCode.FAILED
    assert "\x1b" not in capsys.readouterr().out
