"""train.py as it is used: it learns, it is interrupted, it goes on."""

from __future__ import annotations

import re
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isc_runtime.errors import ExitCode
from isc_runtime.tests.processes import Place, differences, wait_for


def test_the_digits_are_learned(tmp_path: Path) -> None:
    ended = Place(tmp_path).train("--epochs", "6")
    assert ended.code == 0, ended.output
    accuracies = [float(value) for value in re.findall(r"held-out accuracy ([\d.]+)", ended.output)]
    assert accuracies[-1] >= 0.97
    state = Place(tmp_path).newest()
    assert {"model", "optimizer", "scheduler", "sampler", "rng", "metrics"} <= state.keys()


SHORT = ("--epochs", "3", "--save-steps", "5", "--log-steps", "1")


@pytest.mark.parametrize(
    ("isc_mode", "ranks", "more"),
    [
        (False, 1, ("--accumulate", "3", "--batch-size", "96")),
        (True, 2, ("--workers", "1", "--batch-size", "48")),
    ],
    ids=["local, alone", "ISC, two ranks"],
)
def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    tmp_path: Path, isc_mode: bool, ranks: int, more: tuple[str, ...]
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, place = (Place(tmp_path / name, isc_mode) for name in ("whole", "killed"))
    uninterrupted = whole.train(*SHORT, *more, ranks=ranks)
    assert uninterrupted.code == 0, uninterrupted.output
    process = place.start(*SHORT, *more, ranks=ranks)
    said = wait_for(process, "[COMPLETE] Checkpoint of step 10:")
    process.send_signal(signal.SIGKILL)  # torchrun's workers see that it is gone, and end too
    said += process.communicate()[0]
    resumed = place.train(*SHORT, *more, ranks=ranks)
    assert resumed.code == 0, resumed.output
    at = resumed.steps("Resumed from")
    assert at
    assert at[0] >= 10
    assert differences(place.newest(), whole.newest()) == []
    check_tensorboard(place, last=whole.newest()["sampler"]["step"])
    if ranks == 1:
        again = place.train(*SHORT, *more)
        assert again.code == 0, again.output
        assert "Training is complete" in again.output
        assert differences(place.newest(), whole.newest()) == []


def check_tensorboard(place: Place, last: int) -> None:
    """No step is missing and none comes twice."""
    events = EventAccumulator(str(place.logs)).Reload()
    steps = [event.step for event in events.Scalars("training/loss")]
    assert steps == list(range(1, last + 1))
    evaluations = [event.step for event in events.Scalars("evaluation/accuracy")]
    assert all(one < other for one, other in pairwise(evaluations))
    assert len(evaluations) == 3


def test_a_signal_loses_no_step(tmp_path: Path) -> None:
    place = Place(tmp_path)
    process = place.start("--epochs", "1000", "--save-steps", "100000")
    wait_for(process, "step 40:")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    (stopped,) = (int(step) for step in re.findall(r"Stopped by signal \d+ at step (\d+)", said))
    assert place.newest()["sampler"]["step"] == stopped


def test_a_loss_that_stays_nan_stops_the_run_with_its_own_code(tmp_path: Path) -> None:
    place = Place(tmp_path)
    ended = place.train("--learning-rate", "1e30", "--clip-norm", "1e30", "--save-steps", "1")
    assert ended.code == ExitCode.DIVERGED, ended.output
    assert "is skipped" in ended.output
    assert "5 steps in a row were not finite" in ended.output.splitlines()[-1]
    for value in place.newest()["model"].values():
        assert value.isfinite().all()


def test_help_groups_its_options(tmp_path: Path) -> None:
    ended = Place(tmp_path).run("--help")
    assert ended.code == 0
    for group in ("data:", "training:", "checkpoints:", "limits:"):
        assert f"\n{group}" in ended.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("--epochs", "0"), ("--save-steps", "often"), ("--timeout", "-1"), ("--resume",)]
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ended = Place(tmp_path).run(*arguments)
    assert ended.code == ExitCode.USAGE
    assert arguments[0] in ended.output.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
