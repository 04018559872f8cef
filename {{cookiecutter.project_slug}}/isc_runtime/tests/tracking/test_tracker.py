"""Whatever a tracker does, a training goes on, and no step comes twice."""

from __future__ import annotations

import math
import resource
import signal
from pathlib import Path

import pytest

from isc_runtime.tracking.mlflow_files import repair_lines
from isc_runtime.tracking.rows import Rows
from isc_runtime.tracking.run_id import read_id, write_id
from isc_runtime.tracking.tracker import Seen


def test_what_comes_again_after_a_resume_is_left_out() -> None:
    seen = Seen({"loss": 7})
    assert [seen.new({"loss": 0.5, "norm": 2.0}, step) for step in (6, 7, 8, 8)] == [
        {"norm": 2.0},
        {"norm": 2.0},
        {"loss": 0.5, "norm": 2.0},
        {},
    ]


def test_an_id_is_kept_and_what_is_none_is_none(tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    assert read_id(file) is None
    file.write_bytes(b"\xff\xfe")
    assert read_id(file) is None
    write_id(file, "abc")
    assert read_id(file) == "abc"
    assert [*tmp_path.iterdir()] == [file]


def test_halves_of_lines_are_taken_away(tmp_path: Path) -> None:
    metrics = tmp_path / "1" / "run" / "metrics" / "training"
    metrics.mkdir(parents=True)
    (metrics / "loss").write_text("1 0.5 1\n2 0.25 2\n3 0.1")
    (metrics / "norm").write_text("1 0.5 1\n")
    (metrics / "rate").write_text("1 0.")
    repair_lines(tmp_path, "run", step=9)
    left = {file.name: file.read_text() for file in metrics.iterdir()}
    assert left == {"loss": "1 0.5 1\n2 0.25 2\n", "norm": "1 0.5 1\n"}


def test_what_a_killed_start_noted_beyond_its_checkpoint_is_taken_away(tmp_path: Path) -> None:
    """The next start may train otherwise from there: with another learning rate, say."""
    metrics = tmp_path / "1" / "run" / "metrics"
    metrics.mkdir(parents=True)
    (metrics / "loss").write_text("1 0.5 1\n2 0.25 2\n3 9.0 3\n")
    (metrics / "late").write_text("3 9.0 3\n")
    repair_lines(tmp_path, "run", step=2)
    assert {file.name: file.read_text() for file in metrics.iterdir()} == {"loss": "1 0.5 1\n2 0.25 2\n"}
    rows = Rows(tmp_path / "rows.jsonl")
    rows.open(0, run_id="one")
    for step in (1, 2, 3):
        rows.add({"loss": 9.0}, step)
    rows.add({"bytes": 7.0}, 2)  # of a save: it is known after later batches
    again = Rows(tmp_path / "rows.jsonl")
    kept = [({"loss": 9.0}, 1), ({"loss": 9.0}, 2), ({"bytes": 7.0}, 2)]
    assert again.open(2, run_id="two") == kept
    assert again.add({"loss": 0.1}, 3) == {"loss": 0.1}
    assert Rows(tmp_path / "rows.jsonl").open(3, run_id="two") == [*kept, ({"loss": 0.1}, 3)]
    assert [path.name for path in tmp_path.glob("rows*")] == ["rows.jsonl"]


def test_rows_outlive_a_kill_and_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = Rows(file)
    assert rows.open(1, run_id="one") == []
    assert rows.add({"loss": 0.5, "norm": math.inf}, 1) == {"loss": 0.5, "norm": math.inf}
    assert rows.add({"bytes": 7.0}, 1) == {"bytes": 7.0}
    with file.open("a") as half:  # nobody has closed it: a kill
        half.write('{"step": 2, "val')
    again = Rows(file)
    assert again.open(1, run_id="two") == [
        ({"loss": 0.5, "norm": math.inf}, 1),
        ({"bytes": 7.0}, 1),
    ]
    assert again.run_id == "one"
    assert again.add({"loss": 0.5}, 1) == {}, "a step comes once"
    assert again.add({"loss": 0.25}, 2) == {"loss": 0.25}
    again.close()
    assert len(Rows(file).open(2, run_id="two")) == 3
    anew = Rows(file)
    assert anew.open(0, run_id="three") == []
    assert anew.run_id == "three"


def test_a_row_that_finds_no_room_is_an_error(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.open(0, run_id="one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "rows.jsonl").stat().st_size + 5, hard))
    try:
        with pytest.raises(OSError, match="no room for another line"):
            rows.add({"loss": 0.5}, 1)
        with pytest.raises(OSError, match="File too large"):
            rows.add({"loss": 0.5}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert rows.open(1, run_id="two") == []
    assert rows.run_id == "one"
    assert rows.add({"loss": 0.5}, 1) == {"loss": 0.5}
