"""What one cycle, or one node, left behind and another one read."""

from __future__ import annotations

import json
import os
import runpy
import time
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.rehearsal.cycle import Cycle
from isc_runtime.rehearsal.left_behind import judge_left_behind
from isc_runtime.rehearsal.trace import STARTUP, Trace

Lines = list[tuple[str, str, float]]  # kind, path, time


def make_cycle(folder: Path, number: int, *ranks: Lines) -> Cycle:
    """A cycle on two nodes in which ranks wrote and read."""
    traces = folder / str(number)
    traces.mkdir()
    for rank, lines in enumerate(ranks):
        (traces / f"rank_{rank}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = Trace(traces)
    trace.read()
    return Cycle(f"cycle {number}", 2, max(1, len(ranks) // 2), folder, trace, [])


def test_what_outlasts_a_cycle(tmp_path: Path) -> None:
    first = make_cycle(tmp_path, 1, [("wrote", "/h/b", 2), ("wrote", "/h/a", 1), ("read", "/h/a", 1.5)], [])
    second = make_cycle(tmp_path, 2, [("read", "/h/a", 3), ("read", "/h/b", 4), ("read", "/h/c", 5)], [])
    (finding,) = judge_left_behind([first, second])
    assert finding.severity == "warning"
    assert finding.what == (
        "In cycle 2 it reads /h/a (and 1 more), which cycle 1 wrote: on the ISC that would be gone"
    )


def test_what_each_cycle_makes_anew_is_its_own(tmp_path: Path) -> None:
    """On a node one rank may make it for the others."""
    first = make_cycle(tmp_path, 1, [("wrote", "/h/a", 1)], [("read", "/h/a", 2)], [], [])
    second = make_cycle(tmp_path, 2, [("wrote", "/h/a", 3)], [("read", "/h/a", 4)], [], [])
    assert list(judge_left_behind([first, second])) == []


def test_what_another_node_wrote(tmp_path: Path) -> None:
    (finding,) = judge_left_behind([make_cycle(tmp_path, 1, [("wrote", "/h/a", 1)], [("read", "/h/a", 2)])])
    assert finding.what == (
        "Node 1 reads /h/a, which node 0 wrote: on the ISC nodes share no disk but the artifacts'"
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Any, list[tuple[str, str]]]:
    """What hears of files, with a folder `own`, and what it has told."""
    told: list[tuple[str, str]] = []

    def tell(kind: str, path: str, at: float) -> None:
        told.append((kind, Path(path).name))

    (tmp_path / "own").mkdir()
    made = runpy.run_path(str(STARTUP / "isc_rehearsal_files.py"))["Files"]
    return made(tell, [str(tmp_path / "own")], time.time() - 60), told


def test_what_is_heard(files: tuple[Any, list[tuple[str, str]]], tmp_path: Path) -> None:
    one, told = files
    for name in ("new", "own/x"):
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "own" / "x")
    for path, flags in (
        (tmp_path / "own" / "x", os.O_RDWR),
        (tmp_path / "own", os.O_RDWR),
        (tmp_path / "link", os.O_WRONLY),
        (tmp_path / "__pycache__" / "x.pyc", os.O_WRONLY),
        (os.devnull, os.O_WRONLY),
        (1, os.O_WRONLY),
        (None, os.O_WRONLY),
        (tmp_path / "nowhere", os.O_RDONLY),
        (tmp_path, os.O_RDONLY),
    ):
        one.hear("open", (path, None, flags))
    one.hear("os.rename", (str(tmp_path / "own" / "x"), b"\xff", -1, -1))
    one.hear("compile", (None, "x"))
    assert told == [("wrote", "\udcff")]
    for _ in range(2):
        one.hear("open", (bytes(tmp_path / "new"), "r", os.O_RDONLY))
        one.hear("open", (str(tmp_path / "more"), "a+", os.O_RDWR | os.O_CREAT))
    (tmp_path / "more").touch()
    assert told[1:] == [("read", "new"), ("wrote", "more")], "each once"
    (tmp_path / "train.py").touch()
    heard = {"__name__": "isc_runtime.submission.facts", "hear": one.hear, "path": str(tmp_path / "train.py")}
    exec("hear('open', (path, 'r', 0))", heard)
    assert len(told) == 3, "a look at all files is none of the training"
    later = type(one)(one._tell, [], time.time() + 60)
    later.hear("open", (str(tmp_path / "more"), "r", os.O_RDONLY))
    assert told[3:] == [("needs", "more")], "it was there before the rehearsal"
