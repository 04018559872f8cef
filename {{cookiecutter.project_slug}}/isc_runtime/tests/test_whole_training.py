"""All parts of the runtime in one training: it is interrupted, it goes on, and nobody could tell."""

from __future__ import annotations

import re
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isc_runtime.tests.processes import Place, differences, rest_of, wait_for


@pytest.mark.parametrize(
    ("isc_mode", "ranks", "more"),
    [(False, 1, ()), (True, 2, ("--workers", "1"))],
    ids=["local, alone", "ISC, two ranks"],
)
def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    tmp_path: Path, isc_mode: bool, ranks: int, more: tuple[str, ...]
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, place = (Place(tmp_path / name, isc_mode) for name in ("whole", "killed"))
    arguments = ("--save-steps", "3", "--pause", "0", *more)  # options are a part of the checkpoint
    uninterrupted = whole.train(*arguments, ranks=ranks)
    assert uninterrupted.code == 0, uninterrupted.output
    process = place.start(*arguments, "--pause", "0.2", ranks=ranks)
    wait_for(process, "[COMPLETE] Checkpoint of step 6:")
    process.send_signal(signal.SIGKILL)  # torchrun's workers see that it is gone, and end too
    rest_of(process)
    resumed = place.train(*arguments, ranks=ranks)
    assert resumed.code == 0, resumed.output
    last = whole.newest()["sampler"]["step"]
    assert 6 <= resumed.steps("Resumed from")[0] < last
    assert differences(place.newest(), whole.newest()) == []
    check_scalars(place, last)
    again = place.train(*arguments, ranks=ranks)
    assert "Training is complete" in again.output
    assert again.steps(": loss") == []
    assert differences(place.newest(), whole.newest()) == []


def check_scalars(place: Place, last: int) -> None:
    """No step is missing and none comes twice."""
    events = EventAccumulator(str(place.logs)).Reload()
    steps = [event.step for event in events.Scalars("training/loss")]
    assert steps == list(range(1, last + 1))
    evaluations = [event.step for event in events.Scalars("evaluation/loss")]
    assert all(one < other for one, other in pairwise(evaluations))
    assert len(evaluations) == 3


def test_a_signal_loses_no_step(tmp_path: Path) -> None:
    place = Place(tmp_path)
    process = place.start("--epochs", "100000", "--save-steps", "100000")
    wait_for(process, "step 10:")
    process.send_signal(signal.SIGTERM)
    said = rest_of(process)
    assert process.returncode == 128 + signal.SIGTERM
    (stopped,) = (int(step) for step in re.findall(r"Stopped by signal \d+ at step (\d+)", said))
    assert place.newest()["sampler"]["step"] == stopped


def test_slow_batches_are_saved_by_time(tmp_path: Path) -> None:
    """100 batches would take longer than a cycle: killed within one, the next is further."""
    place = Place(tmp_path)
    arguments = ("--save-steps", "100", "--mtbf-seconds", "3", "--pause", "0.6")
    reached = 0
    for ranks in (2, 1):
        process = place.start(*arguments, ranks=ranks)
        said = wait_for(process, "[COMPLETE] Checkpoint of step")
        process.send_signal(signal.SIGKILL)
        said += rest_of(process)
        step = place.newest()["sampler"]["step"]
        assert reached < step < 12
        reached = step


@pytest.mark.parametrize("ranks", [1, 2])
def test_by_default_the_first_batch_of_a_start_is_saved_before_the_next_one(
    tmp_path: Path, ranks: int
) -> None:
    """Saved and linked: what has no link is not shipped. A cycle in which one batch was done is not lost."""
    place = Place(tmp_path)
    for step in (1, 2):
        process = place.start("--pause", "5", ranks=ranks)
        said = wait_for(process, f"[COMPLETE] Checkpoint of step {step}:")
        assert f"step {step}: loss" in said
        assert f"step {step + 1}: loss" not in said
        process.send_signal(signal.SIGKILL)
        rest_of(process)


def test_where_batches_are_slow_an_evaluation_s_save_has_its_link_before_the_next_batch(
    tmp_path: Path,
) -> None:
    ended = Place(tmp_path).run("--epochs", "2", "--batch-size", "50", "--pause", "1")
    assert ended.code == 0, ended.output
    saved = ended.output.index(
        "[COMPLETE] Checkpoint of step 2:", ended.output.rindex("evaluated a batch after step 2")
    )
    assert saved < ended.output.index("step 3: loss")
