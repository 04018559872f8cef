"""A training outlives its curves."""

from __future__ import annotations

import logging
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


def test_what_comes_again_after_a_resume_is_purged(tmp_path: Path) -> None:
    for begin, steps in ((0, range(1, 6)), (3, range(4, 8))):
        scalars = Scalars(tmp_path)
        scalars.begin(begin)
        for step in steps:
            scalars.add("loss", float(step), step)
        scalars.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    scalars = Scalars(None)
    scalars.begin(0)
    scalars.add("loss", 1.0, 1)
    scalars.flush()
    scalars.close()
    assert list(tmp_path.iterdir()) == []
