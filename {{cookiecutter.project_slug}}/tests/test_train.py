"""train.py as it is used: it learns, it is interrupted, it goes on.

These tests are about the example, like train.py itself; change them together with it.
Keep: what a kill, a signal, a loss that is not finite, wrong arguments and missing data must lead to. That
holds for whatever you train; only SHORT, a training of seconds, may have to be another.
Replace: the first test, by what your training must reach in seconds.
"""

from __future__ import annotations

import json
import re
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isc_runtime.errors import ExitCode
from isc_runtime.tests.processes import PROJECT, Ended, Place, differences, rest_of, wait_for
from model import BEST

SCRIPT = PROJECT / "train.py"
SHORT = ("--epochs", "3", "--save-steps", "5", "--log-steps", "1")


def test_the_digits_are_learned(tmp_path: Path) -> None:
    ended = Place(tmp_path, script=SCRIPT).train("--epochs", "6")
    assert ended.code == 0, ended.output
    accuracies = [float(value) for value in re.findall(r"held-out accuracy ([\d.]+)", ended.output)]
    assert accuracies[-1] >= 0.97


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
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, place = (Place(tmp_path / name, isc_mode, script=SCRIPT) for name in ("whole", "killed"))
    uninterrupted = whole.train(*SHORT, *more, ranks=ranks)
    assert uninterrupted.code == 0, uninterrupted.output
    process = place.start(*SHORT, *more, ranks=ranks)
    said = wait_for(process, "[COMPLETE] Checkpoint of step")
    process.send_signal(signal.SIGKILL)
    rest_of(process)
    resumed = place.train(*SHORT, *more, ranks=ranks)
    assert resumed.code == 0, resumed.output
    assert resumed.steps("Resumed from")[0] >= Ended(0, said).steps("[COMPLETE]")[0]
    assert differences(place.newest(), whole.newest()) == []
    check_scalars(place, last=whole.newest()["sampler"]["step"])


def test_a_finished_run_started_again_says_so_and_what_to_do(tmp_path: Path) -> None:
    place = Place(tmp_path, script=SCRIPT)
    first = place.train("--max-steps", "3")
    assert "It is done" not in first.output
    again = place.train("--max-steps", "3")
    assert (again.code, again.steps(": loss")) == (0, [])
    assert "It is done at step 3: raise --epochs, --max-steps or --max-seconds" in again.output
    further = place.train("--max-steps", "5")
    assert "It is done" not in further.output
    assert place.newest()["sampler"]["step"] == 5


def check_scalars(place: Place, last: int) -> None:
    """In TensorBoard no step is missing and none comes twice."""
    events = EventAccumulator(str(place.logs)).Reload()
    assert [event.step for event in events.Scalars("training/loss")] == list(range(1, last + 1))
    evaluations = [event.step for event in events.Scalars(f"evaluation/{BEST.name}")]
    assert len(evaluations) == 3
    assert all(one < other for one, other in pairwise(evaluations))
    starts = json.loads((place.logs / "run.json").read_text())["starts"]  # by which a curve is traced back
    assert [start["options"]["epochs"] for start in starts] == [3, 3]


def test_a_signal_loses_no_step(tmp_path: Path) -> None:
    place = Place(tmp_path, script=SCRIPT)
    process = place.start("--epochs", "1000", "--save-steps", "100000", "--log-steps", "1")
    wait_for(process, "step 20:")
    process.send_signal(signal.SIGTERM)
    said = rest_of(process)
    assert process.returncode == 128 + signal.SIGTERM
    (stopped,) = (int(step) for step in re.findall(r"Stopped by signal \d+ at step (\d+)", said))
    assert place.newest()["sampler"]["step"] == stopped


def test_a_loss_that_stays_nan_stops_the_run_with_its_own_code(tmp_path: Path) -> None:
    place = Place(tmp_path, script=SCRIPT)
    ended = place.train("--learning-rate", "1e30", "--clip-norm", "1e30", "--save-steps", "1")
    assert ended.code == ExitCode.DIVERGED, ended.output
    assert "5 steps in a row were not finite" in ended.output.splitlines()[-1]
    assert all(value.isfinite().all() for value in place.newest()["model"].values())


def test_missing_data_and_wrong_arguments_are_refused_at_once(tmp_path: Path) -> None:
    place = Place(tmp_path, script=SCRIPT)
    missing = place.run("--dataset-id", "missing", "--data-root", str(tmp_path))
    assert missing.code == ExitCode.DATA
    assert str(tmp_path / "missing") in missing.output.splitlines()[-1]
    wrong = place.run("--epochs", "0")
    assert wrong.code == ExitCode.USAGE
    assert "--epochs" in wrong.output.splitlines()[-1]
