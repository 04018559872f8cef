"""When a save is due, and how often one pays: seen in simulated trainings, batch by batch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from isc_runtime.checkpointing.policy import FIRST_STEPS, SavePolicy, best_interval
from isc_runtime.options import AUTO, CheckpointOptions


@dataclass
class Simulation:
    """A training in simulated seconds. It tells the policy what a Checkpointer would, when that would.

    Attributes:
        mtbf: what the policy is told of the mean time between failures.
        batch: seconds of a batch; they vary by a tenth.
        stall: seconds for which a save makes the training stand still.
        write: seconds in which a save is written in the background.
        slowdown: seconds by which each batch is longer that begins meanwhile.
        epoch: batches of an epoch, at the end of which a save is forced.
        start: seconds from an epoch's beginning to its first batch.
        evaluation: seconds between an epoch's last batch and its save, each with a poll.
        is_sync: the training stands still until a save is written.
        more_at_first: seconds by which the first save makes it stand still longer.
    """

    mtbf: float = 900.0
    batch: float = 0.1
    stall: float = 0.05
    write: float = 1.0
    slowdown: float = 0.02
    epoch: int = 10**9
    start: float = 0.0
    evaluation: tuple[float, ...] = ()
    is_sync: bool = False
    more_at_first: float = 0.0
    now: float = field(default=1000.0, init=False)
    gaps: list[int] = field(default_factory=list, init=False)  # batches before each save that was due
    costs: list[float] = field(default_factory=list, init=False)  # of a save, as the policy says
    slowed: int = field(default=0, init=False)  # batches
    saves: int = field(default=0, init=False)
    _written_at: float | None = field(default=None, init=False)
    _began_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.policy = SavePolicy(CheckpointOptions(save_steps=AUTO, mtbf_seconds=self.mtbf), self.now)

    @property
    def cost(self) -> float:
        """The seconds by which a save made the training longer, on the average."""
        return self.stall + self.is_sync * self.write + self.slowed * self.slowdown / self.saves

    def run(self, batches: int) -> Simulation:
        """Trains for so many batches, evaluates and saves at the end of each epoch."""
        vary, last = random.Random(0), 0
        for step in range(1, batches + 1):
            batch = (step - 1) % self.epoch
            self.now += self.start if batch == 0 else 0.0
            is_slowed = self._written_at is not None and self.now < self._written_at
            self.slowed += is_slowed
            self.now += self.batch * vary.uniform(0.9, 1.1) + is_slowed * self.slowdown
            is_last = batch + 1 == self.epoch
            if self.policy.due(step, batch, self._written_at is not None) and not is_last:
                self.gaps.append(step - last)
                last = step
                self._save(step)
            self._poll(step, batch + 1)
            if is_last:
                for seconds in self.evaluation:
                    self.now += seconds
                    self._poll(step, batch + 1)
                last = step
                self._save(step)
        return self

    def _poll(self, step: int, batch: int) -> None:
        self.policy.pace.poll(step, batch, self._written_at is not None, self.now)
        if self._written_at is not None and self.now > self._written_at + self.batch:  # told a batch later
            self._publish()

    def _save(self, step: int) -> None:
        if self._written_at is not None:
            self._wait()
        self.saves += 1
        self._began_at = self.now
        self.policy.begun(step, self.now)
        stall = self.stall + (self.more_at_first if self.saves == 1 else 0.0)
        self.now += stall
        self.policy.pace.stood_still(stall)
        self._written_at = self.now + self.write
        if self.is_sync:
            self._wait()

    def _wait(self) -> None:
        assert self._written_at is not None
        waited = max(0.0, self._written_at - self.now)
        self.now += waited
        self.policy.pace.stood_still(waited)
        self._publish()

    def _publish(self) -> None:
        assert self._written_at is not None
        steps, cost = self.policy.saved(self._written_at - self._began_at)
        self.policy.agree(steps, cost)
        self.costs.append(cost)
        self._written_at = None


def lost_least(cost: float, mtbf: float) -> float:
    """Seconds of computing between two saves with which a training takes the least time, found by trial.

    Failures come as they like, at a mean distance of `mtbf`; each loses what was computed since the last
    save. To get `work` seconds of computing and a save after it done takes mtbf * (exp((work + cost) / mtbf)
    - 1) seconds on the average.
    """
    trials = [mtbf * 1.01**power for power in range(-1500, 200)]
    return min(trials, key=lambda work: math.expm1((work + cost) / mtbf) / work)


def mean(values: list[int]) -> float:
    """The mean of the later half: by then the policy knows the training."""
    later = values[len(values) // 2 :]
    return sum(later) / len(later)


def test_a_given_number_of_batches_counts_within_the_epoch() -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=5), 0.0)
    assert [batch for batch in range(15) if policy.due(100 + batch, batch, False)] == [4, 9, 14]


def test_what_a_save_costs_changes_no_given_number() -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=5), 0.0)
    for step in range(1, 4):
        policy.pace.poll(step, step, False, 1.0 * step)
    policy.begun(3, 3.0)
    policy.pace.stood_still(2.0)
    assert policy.saved(write_seconds=50.0) == (5, 2.0)


def test_auto_saves_after_the_first_batch_of_a_start_and_counts_from_there() -> None:
    """In a cycle in which one batch was finished something was gained."""
    policy = SavePolicy(CheckpointOptions(), 0.0)
    policy.resumed(1003)
    assert policy.due(1004, 4, False), "whatever was saved before this start"
    policy.begun(1004, 1.0)
    assert [policy.due(1004 + more, 0, False) for more in (1, FIRST_STEPS - 1, FIRST_STEPS)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [({}, 1200.0), ({"mtbf_seconds": 90.0}, 30.0), ({"mtbf_seconds": 90.0, "save_seconds": 7.0}, 7.0)],
)
def test_a_save_is_due_by_time_too(given: dict[str, float], seconds: float) -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=1000, **given), 50.0)  # type: ignore[arg-type]
    assert [policy.is_late(50.0 + seconds + more) for more in (-0.1, 0.0)] == [False, True]
    assert not policy.due(3, 2, False), "one rank's clock is not agreed upon"
    policy.ask()
    assert policy.due(3, 2, False)
    assert policy.due(3, None, False), "in an evaluation too"
    policy.begun(3, 60.0 + seconds)
    assert not policy.due(4, 3, False)
    assert not policy.is_late(60.0 + seconds + 1.0)


def test_what_costs_more_than_the_longest_time_between_two_saves_leaves_time_to_train() -> None:
    policy = SavePolicy(CheckpointOptions(mtbf_seconds=90.0), 0.0)
    for step in range(1, 10):
        policy.pace.poll(step, step, False, float(step))
    policy.begun(9, 9.0)
    policy.pace.stood_still(40.0)
    steps, cost = policy.saved(write_seconds=40.0)
    assert 40 < steps < 80
    another_rank_s = SavePolicy(CheckpointOptions(mtbf_seconds=90.0), 0.0)  # which has not waited itself
    another_rank_s.begun(9, 9.0)
    for one in (policy, another_rank_s):
        one.agree(steps, cost)
        assert [one.is_late(9.0 + seconds) for seconds in (31.0, 79.0, 80.0)] == [False, False, True]


def test_cheap_saves_are_as_far_apart_as_they_may_be_at_most() -> None:
    """Daly's interval for 20 s in an hour is 380 s, more than a cycle of 90 s that nobody named."""
    policy = SavePolicy(CheckpointOptions(save_seconds=60.0), 0.0)
    for step in range(1, 10):
        policy.pace.poll(step, step, False, float(step))
    policy.begun(9, 9.0)
    policy.pace.stood_still(20.0)
    assert policy.saved(write_seconds=20.0) == (60, 20.0)


def test_the_gaps_between_saves_are_those_that_lose_the_least() -> None:
    simulation = Simulation().run(10_000)
    expected = lost_least(simulation.cost, simulation.mtbf) / simulation.batch
    assert 150 < expected < 250
    assert mean(simulation.gaps) == pytest.approx(expected, rel=0.05)
    assert simulation.costs[-1] == pytest.approx(simulation.cost, rel=0.1)


def test_what_only_the_first_save_of_a_start_costs_does_not_keep_the_others_apart() -> None:
    """It makes its memory, and pins it; a mean over all saves would need hundreds of them to forget that."""
    plain, slow = (Simulation(more_at_first=more).run(5000) for more in (0.0, 5.0))
    assert plain.gaps[5:10] == pytest.approx(slow.gaps[5:10], rel=0.05)
    assert slow.costs[0] > 5.0
    assert slow.costs[1] == pytest.approx(slow.cost, rel=0.3)


@pytest.mark.parametrize("slowdown", [0.05, 0.1])
def test_a_first_save_that_outlasts_the_start_does_not_make_the_others_follow_each_other(
    slowdown: float,
) -> None:
    """As long as a save is beside each batch nothing tells how much longer that makes it."""
    simulation = Simulation(write=10.0, slowdown=slowdown).run(10_000)
    expected = lost_least(simulation.cost, simulation.mtbf) / simulation.batch
    assert mean(simulation.gaps) == pytest.approx(expected, rel=0.1)


def test_a_wait_that_only_one_save_has_caused_is_no_cost_and_no_batch_s() -> None:
    policy, now = SavePolicy(CheckpointOptions(save_steps=AUTO), 0.0), 0.0
    for step in range(1, 30):
        now += 1.0
        policy.pace.poll(step, step, False, now)
        policy.pace.stood_still(3.0, is_usual=False)
        now += 3.0
    assert policy.pace.batch_seconds == pytest.approx(1.0)
    assert policy.pace.save_seconds == 0.0


def test_auto_waits_for_the_save_that_is_written() -> None:
    policy = SavePolicy(CheckpointOptions(), 0.0)
    policy.begun(1, 1.0)
    assert [policy.due(1 + FIRST_STEPS, 9, is_saving) for is_saving in (True, False)] == [False, True]


def test_the_gaps_do_not_depend_on_the_length_of_the_epochs() -> None:
    """Counted within the epoch, a gap that changes would come sooner or later than it says."""
    plain = Simulation().run(10_000)
    epochs = Simulation(epoch=1000).run(10_000)
    assert mean(epochs.gaps) == pytest.approx(mean(plain.gaps), rel=0.05)


def test_an_evaluation_and_an_epoch_s_start_are_no_batches_and_no_cost_of_a_save() -> None:
    """Each epoch's save is followed by the start of loaders, which takes as long as many saves."""
    simulation = Simulation(epoch=500, start=5.0, evaluation=(3.0, 2.0, 2.0)).run(10_000)
    assert simulation.policy.pace.batch_seconds == pytest.approx(simulation.batch, rel=0.02)
    assert simulation.costs[-1] == pytest.approx(simulation.cost, rel=0.15)
    expected = lost_least(simulation.cost, simulation.mtbf) / simulation.batch
    assert mean(simulation.gaps) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("polls", [1, 2, 3])
def test_the_batch_after_an_evaluation_within_an_epoch_is_no_measure(polls: int) -> None:
    """It ends a time in which something else went on too, however often that called poll."""
    policy, now = SavePolicy(CheckpointOptions(save_steps=AUTO), 0.0), 50.0
    for step in range(1, 101):
        now += 1.0
        policy.pace.poll(step, step, False, now)
        if step % 10 == 0:
            for _ in range(polls):
                now += 4.0
                policy.pace.poll(step, step, False, now)
            now += 7.0  # its last part, after the last poll
    assert policy.pace.batch_seconds == pytest.approx(1.0)


def test_a_start_that_compiles_is_no_batch() -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=AUTO), 0.0)
    for step, now in enumerate((300.0, 301.0, 302.0), start=7):
        policy.pace.poll(step, step, False, now)
    assert policy.pace.batch_seconds == pytest.approx(1.0)


def test_what_the_training_waits_for_a_save_is_its_cost_and_no_batch_s() -> None:
    simulation = Simulation(is_sync=True, slowdown=0.0).run(10_000)
    assert simulation.cost == pytest.approx(1.05)
    assert simulation.costs[-1] == pytest.approx(1.05, rel=0.05)
    assert simulation.policy.pace.batch_seconds == pytest.approx(simulation.batch, rel=0.02)
    expected = lost_least(1.05, simulation.mtbf) / simulation.batch
    assert mean(simulation.gaps) == pytest.approx(expected, rel=0.05)


def test_saves_that_take_longer_than_pays_follow_each_other_without_a_queue() -> None:
    simulation = Simulation(mtbf=10.0, write=20.0, stall=0.05, slowdown=0.0).run(10_000)
    assert mean(simulation.gaps) >= 20.0 / (1.1 * simulation.batch)
    assert mean(simulation.gaps) == pytest.approx(20.0 / simulation.batch, rel=0.05)


def test_a_save_that_fails_costs_something_too() -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=AUTO), 0.0)
    for step in range(1, 10):
        policy.pace.poll(step, step, False, float(step))
    for step in (10, 11):  # the first one fails
        policy.begun(step, float(step))
        policy.pace.stood_still(0.5)
        policy.pace.poll(step, step, False, step + 0.5 * (step - 9))
    assert policy.saved(write_seconds=1.0)[1] == pytest.approx(0.5)


@pytest.mark.parametrize("cost", [0.01, 0.3, 3.0, 30.0, 45.0, 89.0, 150.0])
def test_the_interval_is_the_one_that_loses_the_least(cost: float) -> None:
    """Up to costs near the time between failures, where Young's rule asks for less than one save in it."""
    seconds = best_interval(cost, mtbf_seconds=90.0)

    def seconds_per_work(work: float) -> float:
        return 90.0 * math.expm1((work + cost) / 90.0) / work

    assert seconds_per_work(seconds) <= 1.005 * seconds_per_work(lost_least(cost, 90.0))


def test_the_interval_has_limits() -> None:
    assert best_interval(cost=500.0, mtbf_seconds=90.0) == 90
    assert best_interval(cost=180.0, mtbf_seconds=90.0) == 90
    assert best_interval(cost=0.0, mtbf_seconds=90.0) == 0


@pytest.mark.parametrize(("write_seconds", "steps"), [(0.0, 1), (10.0, 10)])
def test_saves_that_cost_nothing_do_not_queue(write_seconds: float, steps: int) -> None:
    policy = SavePolicy(CheckpointOptions(), 0.0)
    for step in range(1, 10):
        policy.pace.poll(step, step, False, float(step))
    policy.begun(9, 9.0)
    assert policy.saved(write_seconds)[0] == steps
