"""A training outlives its curves."""

from __future__ import annotations

import logging
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from isc_runtime.logs import Scalars


def test_a_full_disk_costs_the_curves_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    scalars = Scalars(tmp_path)
    scalars.begin(0)
    scalars.add("loss", 3.0, 1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", full)
        scalars.add("loss", 2.0, 2)
        scalars.add("loss", 1.0, 3)
    assert caplog.text.count("TensorBoard is off until the next save: [Errno 28] No space left") == 1
    scalars.flush()
    scalars.add("loss", 0.5, 4)
    scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {event.step for event in events.Scalars("loss")} >= {4}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_stays_full_costs_no_threads_and_no_descriptors(tmp_path: Path) -> None:
    """Each save tries again: after a day on a full disk that is thousands of times."""
    scalars = Scalars(tmp_path)
    scalars.begin(0)
    scalars.add("loss", 3.0, 1)
    scalars.flush()
    before = threading.active_count(), len([*Path("/proc/self/fd").iterdir()]), len([*tmp_path.iterdir()])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file can grow any more
    try:
        for step in range(2, 22):
            scalars.add("loss", 2.0, step)
            scalars.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # Twenty times; what else this process has opened meanwhile is not theirs.
    assert threading.active_count() <= before[0] + 5
    assert len([*Path("/proc/self/fd").iterdir()]) <= before[1] + 5
    assert len([*tmp_path.iterdir()]) == before[2]
    scalars.flush()
    scalars.add("loss", 0.5, 30)
    scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {event.step for event in events.Scalars("loss")} >= {1, 30}


def test_what_comes_again_after_a_resume_is_purged(tmp_path: Path) -> None:
    for begin, steps in ((0, range(1, 6)), (3, range(4, 8))):
        scalars = Scalars(tmp_path)
        scalars.begin(begin)
        for step in steps:
            scalars.add("loss", float(step), step)
        scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("later", [0, 3600, -3600, -86_400], ids=str)
def test_the_whole_curve_is_there_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """TensorBoard reads files in the order of their names, which begin with the time."""
    real = time.time
    for number, (begin, steps) in enumerate(((0, range(1, 6)), (3, range(4, 8)), (6, range(7, 9)))):
        monkeypatch.setattr(time, "time", lambda shift=number * later: real() + shift)
        scalars = Scalars(tmp_path)
        scalars.begin(begin)
        for step in steps:
            scalars.add("loss", float(number), step)
        scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    said = [(event.step, event.value) for event in events]
    assert said == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1), (7, 2), (8, 2)]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    scalars = Scalars(None)
    scalars.begin(0)
    scalars.add("loss", 1.0, 1)
    scalars.flush()
    scalars.close()
    assert list(tmp_path.iterdir()) == []
