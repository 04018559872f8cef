"""Whatever a tracker does, a training goes on as if it were not there."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isc_runtime.logs import Scalars
from isc_runtime.tracking.guarded import Guarded


class Recorder:
    """Keeps what it is told, and fails when it is told to."""

    name = "The recorder"

    def __init__(self, directory: Path = Path("logs")) -> None:
        self.directory = directory
        self.told: list[tuple[Any, ...]] = []
        self.failing: set[str] = set()

    def _note(self, *what: Any) -> None:
        if what[0] in self.failing:
            raise RuntimeError(f"no {what[0]}")
        self.told.append(what)

    def begin(self, step: int) -> None:
        self._note("begin", step)

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        self._note("describe", start["commit"], step)

    def add(self, values: Mapping[str, float], step: int) -> None:
        self._note("add", dict(values), step)

    def flush(self) -> None:
        self._note("flush")

    def close(self) -> None:
        self._note("close")


def test_a_tracker_is_told_all_in_its_order(tmp_path: Path) -> None:
    recorder = Recorder()
    with Scalars(tmp_path, lambda step: {"commit": "abc"}, [recorder]) as scalars:
        scalars.begin(3)
        scalars.report("training", "step 4:", {"loss": 0.5, "norm": 2.0}, 4)
        scalars.add("checkpoint/bytes", 7.0, 4)
        scalars.flush()
    assert recorder.told == [
        ("begin", 3),
        ("describe", "abc", 3),
        ("add", {"training/loss": 0.5, "training/norm": 2.0}, 4),
        ("add", {"checkpoint/bytes": 7.0}, 4),
        ("flush",),
        ("close",),
    ]


@pytest.mark.parametrize("method", ["begin", "describe", "add", "flush", "close"])
def test_one_that_fails_is_off_until_the_next_save_and_costs_the_others_nothing(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bad, good = Recorder(), Recorder()
    bad.failing = {method}
    scalars = Scalars(tmp_path, lambda step: {"commit": "abc"}, [bad, good])
    scalars.begin(0)
    scalars.add("loss", 1.0, 1)
    scalars.add("loss", 0.9, 2)
    scalars.flush()
    if method != "close":
        said = f"The recorder is off until the next save: RuntimeError: no {method} in {tmp_path}"
        tried = 2 if method in ("begin", "describe") else 1  # again with the first save
        assert caplog.text.count(said) == tried
        bad.failing = set()
        scalars.flush()
        scalars.add("loss", 0.8, 3)
        assert bad.told[-1] == ("add", {"loss": 0.8}, 3)
        assert [told for told in bad.told if told[0] == "begin"][-1] == (
            "begin",
            0 if method == "begin" else 2,
        )
    scalars.close()
    assert [told[-1] for told in good.told if told[0] == "add"][:2] == [1, 2]


class Fails(Recorder):
    """Does something of its own instead of beginning."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def begin(self, step: int) -> None:
        self.act()
        super().begin(step)


def raises(error: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


ENDS: dict[str, Callable[[], object]] = {
    "sys.exit(0)": lambda: sys.exit(0),
    "a task that is cancelled": raises(asyncio.CancelledError()),
    "a handler of its own": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "an exception": raises(ValueError("no")),
}


@pytest.mark.parametrize("kind", ENDS)
def test_none_ends_a_training(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    guarded = Guarded(Fails(ENDS[kind]), "logs")
    guarded.begin(0)
    guarded.add({"loss": 1.0}, 1)
    guarded.close()
    assert "The recorder is off until the next save" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_stops_the_training_is_heard() -> None:
    with pytest.raises(KeyboardInterrupt):
        Guarded(Fails(raises(KeyboardInterrupt())), "logs").begin(0)


def test_one_that_does_not_come_back_is_left_alone_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    comes_back = threading.Event()
    tracker = Fails(comes_back.wait)
    guarded = Guarded(tracker, "logs", patience=0.01)
    guarded.begin(3)
    assert "it has not come back from a call for 0.01 s in logs" in caplog.text
    for step in (4, 5):
        guarded.add({"loss": 1.0}, step)
        guarded.flush()
    assert not tracker.told
    guarded = Guarded(tracker, "logs")
    comes_back.set()
    guarded.begin(5)
    guarded.add({"loss": 1.0}, 6)
    assert ("add", {"loss": 1.0}, 6) in tracker.told  # the call that was stuck comes when it will


def test_what_it_draws_at_random_is_not_missing_in_the_training() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    def seeded() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seeded()
    expected = [draw(), draw()]
    seeded()
    drawn = [draw()]
    guarded = Guarded(Fails(draw), "logs")
    guarded.begin(0)
    guarded.close()
    assert [*drawn, draw()] == expected


def test_what_a_start_is_comes_later_if_it_could_not_begin() -> None:
    tracker = Recorder()
    tracker.failing = {"begin"}
    guarded = Guarded(tracker, "logs")
    guarded.begin(0)
    guarded.describe({"commit": "abc"}, 0)
    tracker.failing = set()
    guarded.flush()
    guarded.flush()
    assert [told for told in tracker.told if told[0] != "close"] == [
        ("begin", 0),
        ("describe", "abc", 0),
        ("flush",),
    ]
