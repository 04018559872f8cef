"""The time for a batch, by a clock of the test's own."""

from __future__ import annotations

import time

import pytest

from isc_runtime.ranks.deadline import STILL, Deadline


class Clock:
    """Stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def is_over_after(clock: Clock, deadline: Deadline, seconds: float) -> bool:
    """Looks once a second, as the watch does, which looks more often."""
    for _ in range(round(seconds)):
        clock.now += 1
        if deadline.is_over():
            return True
    return False


def test_the_first_batch_has_a_limit_of_its_own(clock: Clock) -> None:
    deadline = Deadline(20, 10)
    assert not is_over_after(clock, deadline, 20)
    assert is_over_after(clock, deadline, 1)
    assert (deadline.limit, deadline.is_first) == (20, True)
    deadline.progress()
    assert not is_over_after(clock, deadline, 10)
    assert not deadline.is_over(margin=1)
    assert (deadline.limit, deadline.is_first) == (10, False)
    deadline.begin_anew()
    assert not is_over_after(clock, deadline, 10)
    assert is_over_after(clock, deadline, 1)


def test_the_time_in_which_the_process_stood_still_does_not_count(clock: Clock) -> None:
    """Ctrl-Z and `fg`, or a scheduler that suspends a job: nothing hangs, and all goes on."""
    deadline = Deadline(10, 10)
    assert not is_over_after(clock, deadline, 4)
    clock.now += 3600
    assert not deadline.is_over()
    assert not is_over_after(clock, deadline, 6)
    assert is_over_after(clock, deadline, 1)


def test_a_late_look_is_no_stop(clock: Clock) -> None:
    """The thread that looks had to wait for its turn."""
    deadline = Deadline(10, 10)
    for _ in range(6):
        clock.now += STILL
        is_over = deadline.is_over()
    assert is_over
