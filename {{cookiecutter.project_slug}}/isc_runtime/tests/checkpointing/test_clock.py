"""Saves that are due by time, seen on ranks whose clocks differ: all of them save at the same batch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from isc_runtime.checkpointing import clock as clock_module
from isc_runtime.checkpointing.clock import Clock
from isc_runtime.checkpointing.policy import SavePolicy
from isc_runtime.options import CheckpointOptions

NEVER = 10**9  # batches
EACH = 5.0  # seconds between two saves


class Ranks:
    """Trains on some ranks, batch by batch, in simulated seconds: as a Checkpointer does.

    Args:
        began: when each rank's clock began, in seconds after the first one's; the slowest is late first.
        batch: seconds of one.
        limit: seconds of training after which it is to end.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *began: float, batch: float, limit: float = 1e9
    ) -> None:
        self.now, self.batch, self.asked = 1000.0, batch, 0
        self.writing = False
        self.saves: list[tuple[int, float]] = []  # the step of each, and when
        self.step = 0
        self._answer: Any = None
        self._said: list[int] | None = None
        monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        options = CheckpointOptions(save_steps=NEVER, save_seconds=EACH)
        self.policies, self.clocks = [], []
        for rank, seconds in enumerate(began):
            policy = SavePolicy(options, self.now + seconds)
            group: Any = SimpleNamespace(master=self._master(rank))
            self.policies.append(policy)
            self.clocks.append(Clock(policy, group, limit))

    def _master(self, rank: int) -> Callable[[Callable[[], Any]], Any]:
        def master(function: Callable[[], Any]) -> Any:
            if rank == 0:
                self._answer = function()
                self.asked += 1
            return self._answer

        return master

    def look(self, is_evaluation: bool = False) -> None:
        """All ranks ask whether to save, and do if they are to."""
        due = []
        for clock, policy in zip(self.clocks, self.policies, strict=True):
            clock.look(is_evaluation, self.writing)
            due.append(policy.due(self.step, None if is_evaluation else 0, self.writing))
        assert len(set(due)) == 1, "all ranks save, or none"
        if due[0]:
            self.save()

    def save(self) -> None:
        """All ranks begin a save."""
        self.saves.append((self.step, self.now))
        for clock, policy in zip(self.clocks, self.policies, strict=True):
            policy.begun(self.step, self.now)
            clock.begun()

    def poll(self) -> None:
        """Ends a batch: what the ranks say now, all of them hear at the next one."""
        words = [clock.words(self.writing) for clock in self.clocks]
        for clock in self.clocks:
            clock.heard(*(self._said or [0, 0, 0, 0]))
        self._said = [max(said) for said in zip(*words, strict=True)]

    def train(self, batches: int, is_evaluation: bool = False) -> Ranks:
        """So many batches."""
        for _ in range(batches):
            self.now += self.batch
            self.step += not is_evaluation
            self.look(is_evaluation)
            self.poll()
        return self


def test_fast_batches_need_no_collective_and_all_ranks_save_at_the_same_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = Ranks(monkeypatch, 0.0, -2.0, batch=0.1).train(200)
    first, *later = [at - 1000.0 for _, at in ranks.saves]
    assert first == pytest.approx(EACH - 2.0 + 2 * ranks.batch, abs=0.11), "the first rank that is late"
    gaps = [after - before for before, after in zip([first, *later], later, strict=False)]
    assert gaps == pytest.approx([EACH + 2 * ranks.batch] * len(gaps), abs=0.11)
    assert len(gaps) >= 2
    assert ranks.asked == clock_module.LATENCY, "only while nobody knew how long a batch takes"


def test_where_batches_are_slow_none_is_lost_between_a_word_and_its_save(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = Ranks(monkeypatch, 0.0, 0.0, batch=2.0).train(12)
    assert [step for step, _ in ranks.saves] == [3, 6, 9, 12]
    assert ranks.asked == 12


def test_what_was_said_before_a_save_is_answered_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch, 0.0, batch=0.1).train(20)
    while ranks._said is not None and not ranks._said[1]:  # until a rank says that it is late
        ranks.train(1)
    ranks.save()  # at the end of an epoch
    ranks.train(20)
    assert len(ranks.saves) == 1
    ranks.train(40)
    assert len(ranks.saves) == 2, "and the next one is due when it is"


def test_a_save_that_is_written_lets_the_next_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in (0.1, 2.0):
        ranks = Ranks(monkeypatch, 0.0, 0.0, batch=batch)
        ranks.writing = True
        ranks.train(100)
        assert ranks.saves == []
        ranks.writing = False
        ranks.train(3)
        assert len(ranks.saves) == 1


def test_an_evaluation_saves_by_time_too_and_tells_nothing_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = Ranks(monkeypatch, 0.0, batch=0.1).train(10)
    assert ranks.clocks[0].training_seconds == pytest.approx(0.1, abs=0.002)
    asked = ranks.asked
    ranks.batch = 3.0
    ranks.train(4, is_evaluation=True)
    assert ranks.asked == asked + 4, "at first nobody knows how long its batches take, then they are slow"
    assert len(ranks.saves) == 2
    assert ranks.clocks[0].training_seconds == pytest.approx(0.1, abs=0.002)
    assert ranks.clocks[0].is_slow
    assert ranks.clocks[0].is_evaluation
    assert ranks.clocks[0].seconds_trained() == pytest.approx(10 * 0.1 + 4 * 3.0), "since this start"
    ranks.now += 0.25
    assert ranks.clocks[0].since_poll() == pytest.approx(0.25)


def test_the_time_is_up_on_all_ranks_at_the_same_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all resumes: what was trained before counts."""
    ranks = Ranks(monkeypatch, 0.0, 0.0, batch=0.5, limit=60.0)
    ranks.now += 7.0  # loading: of no rank's training
    ranks.clocks[0].resumed(40.0)
    ranks.clocks[1].resumed(50.0)
    ups = []
    for _ in range(30):
        ranks.train(1)
        ups.append([clock.is_time_up for clock in ranks.clocks])
    assert ups == [[False, False]] * 21 + [[True, True]] * 9  # heard at the poll after the one that says so
    assert ranks.clocks[0].seconds_trained() == pytest.approx(40.0 + 15.0)
