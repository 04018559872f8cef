"""How soon a cycle gets somewhere is measured, and said with what it would not any more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from isc_runtime.rehearsal.cycle import KILLED, TERMINATED, Cycle
from isc_runtime.rehearsal.pace import Pace, judge_pace
from isc_runtime.rehearsal.trace import Trace


def told_cycle(
    folder: Path, start: float, batch: float, saves_after: int = 1, writes: float = 0.5, end: str = KILLED
) -> Cycle:
    """A cycle whose start took so long, and that saved after so many batches; all in seconds."""
    folder.mkdir()
    times = {step: 1000 + start + batch * (step - 40) for step in range(41, 61)}
    lines: list[list[object]] = [["start", 1], ["restored", 0.25, False]]
    lines += [["step", step, 0, at] for step, at in times.items()]
    lines.append(["published", 40 + saves_after, times[40 + saves_after] + writes])
    lines.append(["published", 60, times[60] + writes])
    (folder / "rank_0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = Trace(folder)
    trace.read()
    cycle = Cycle("cycle 1", 1, 1, folder, trace, [], end, started_at=1000.0, checkpoint_bytes=10**8)
    cycle.stop_seconds = 3.0 if end == TERMINATED else None
    return cycle


def test_the_slowest_cycle_counts(tmp_path: Path) -> None:
    cycles = [
        told_cycle(tmp_path / "1", start=5, batch=2),
        told_cycle(tmp_path / "2", start=9, batch=2, end=TERMINATED),
    ]
    pace = Pace.of(cycles, 90.0)
    assert (pace.first_step, pace.first_save, pace.stop) == (11.0, 11.5, 3.0)
    assert (pace.batch, pace.batches, pace.size, pace.handling) == (2.0, 1, 10**8, 0.75)
    assert pace.longest_batch == 2 + 78.5  # and the start and the save are as long as they were
    assert pace.largest_checkpoint == round(10**8 * (1 + 78.5 / 0.75))
    assert list(judge_pace(pace)) == []
    first, second = pace.words()
    assert first == (
        "From the start of the command, at most in a cycle of 90 s: 11.0 s to the first step, "
        "11.5 s to the first completed save, 3.0 s from SIGTERM to the end."
    )
    assert "no cycle would come to a save with batches of 80.5 s (now 2 s)" in second
    assert "or with a checkpoint of 10.6 GB (now 100 MB)" in second


def test_a_save_after_many_batches_is_lost_with_batches_that_are_a_little_longer(tmp_path: Path) -> None:
    pace = Pace.of([told_cycle(tmp_path / "1", start=9.5, batch=2, saves_after=15)], 90.0)
    assert pace.first_save == 9.5 + 30 + 0.5
    assert pace.longest_batch == pytest.approx(2 + 50 / 15)


def test_a_first_save_that_comes_after_a_cycle_is_an_error_though_it_came(tmp_path: Path) -> None:
    """Every 100 batches of 0.8 s: no cycle of 90 s saves anything, start-up included."""
    slow = told_cycle(tmp_path / "1", start=11, batch=4.2, saves_after=19)
    (finding,) = judge_pace(Pace.of([slow], 90.0))
    assert finding.severity == "error"
    assert "No cycle makes progress: its first save is complete 91 s after the start" in finding.what
    assert "a cycle has 90 s" in finding.what
    assert "--save-steps auto" in finding.hint
    (finding,) = judge_pace(Pace.of([slow], 60.0))  # a person made it so short
    assert finding.severity == "warning"
    (finding,) = judge_pace(Pace.of([slow], 120.0))
    assert finding.severity == "warning"
    assert "a slower machine would make no progress" in finding.what
    assert list(judge_pace(Pace.of([slow], None))) == []


def test_what_was_not_seen_is_not_said(tmp_path: Path) -> None:
    assert list(Pace.of([], 90.0).words()) == []
    assert list(judge_pace(Pace.of([], 90.0))) == []
    cycle = told_cycle(tmp_path / "1", start=5, batch=2)
    cycle.trace.ranks[0].published.clear()
    pace = Pace.of([cycle], None)
    assert pace == replace(Pace(None), first_step=7.0)
    assert list(pace.words()) == ["From the start of the command, at most: 7.0 s to the first step."]
