"""What may be written, and how often it pays."""

from __future__ import annotations

import torch

from isc_runtime.saving import best_interval, first_not_finite


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
    assert best_interval(stall=0.02, write_seconds=0.1, mtbf_seconds=90, batch_seconds=0.05) == 38
    assert best_interval(stall=2.0, write_seconds=5.0, mtbf_seconds=3600, batch_seconds=1.0) == 120
    assert best_interval(stall=0.001, write_seconds=10.0, mtbf_seconds=90, batch_seconds=1.0) == 10
    assert best_interval(stall=0.0, write_seconds=0.0, mtbf_seconds=90, batch_seconds=1.0) == 1
