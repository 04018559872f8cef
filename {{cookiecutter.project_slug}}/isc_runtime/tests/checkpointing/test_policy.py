"""When a save is due, and how often one pays."""

from __future__ import annotations

import pytest

from isc_runtime.checkpointing.policy import Pace, SavePolicy, best_interval
from isc_runtime.options import AUTO, CheckpointOptions


def test_a_given_number_of_batches_counts_within_the_epoch() -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=5))
    assert [batch for batch in range(15) if policy.due(100 + batch, batch)] == [4, 9, 14]


def test_the_automatic_interval_counts_from_the_last_save() -> None:
    policy = SavePolicy(CheckpointOptions(save_steps=AUTO))
    policy.save_steps, saves = 7, []
    for step in range(1, 50):
        if policy.due(step, batch=step % 10):
            saves.append(step)
            policy.begun(step)
            policy.save_steps += 1
    assert saves == [7, 15, 24, 34, 45]


def test_the_automatic_interval_follows_young() -> None:
    assert best_interval(cost=0.02, write_seconds=0.1, mtbf_seconds=90, batch_seconds=0.05) == 38
    assert best_interval(cost=2.0, write_seconds=5.0, mtbf_seconds=3600, batch_seconds=1.0) == 120
    assert best_interval(cost=0.001, write_seconds=10.0, mtbf_seconds=90, batch_seconds=1.0) == 10
    assert best_interval(cost=0.0, write_seconds=0.0, mtbf_seconds=90, batch_seconds=1.0) == 1


def test_a_save_costs_all_by_which_it_makes_the_batches_longer() -> None:
    pace, now = Pace(), 100.0
    for step in range(1, 21):
        is_saving = step in (10, 11, 12)  # begun in the batch of step 10, published after that of step 13
        now += {1: 9.0, 10: 1.3, 11: 1.2, 12: 1.1, 13: 1.4}.get(step, 1.0)  # the first batch compiles
        pace.poll(step, is_saving, now)
        if step == 13:
            pace.save_ended()
        if step == 15:  # an evaluation is no batch
            pace.poll(step, is_saving, now := now + 30.0)
    assert pace.batch_seconds == pytest.approx(1.0)
    assert pace.save_seconds == pytest.approx(1.0)


def test_saves_without_a_pause_have_no_other_batches_to_compare_with() -> None:
    pace = Pace()
    for step in range(1, 6):
        pace.poll(step, True, 2.0 * step)
        pace.save_ended()
    assert pace.batch_seconds == pytest.approx(2.0)
    assert pace.save_seconds == 0.0
