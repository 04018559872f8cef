"""What may be written, and how often it pays."""

from __future__ import annotations

import pytest
import torch

from isc_runtime.checkpointing.saving import Pace, best_interval, first_not_finite


def test_what_is_not_finite_is_named() -> None:
    state = {
        "model": {"good": torch.ones(2), "count": torch.tensor(1), "bad": torch.tensor([1.0, float("nan")])}
    }
    assert first_not_finite(state) == "model.bad"
    del state["model"]["bad"]
    assert first_not_finite(state) is None


def test_what_overflows_in_a_sum_is_finite_all_the_same() -> None:
    assert first_not_finite({"large": torch.full((100,), 3e38)}) is None
    assert first_not_finite({"opposed": torch.tensor([float("inf"), -float("inf")])}) == "opposed"


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
