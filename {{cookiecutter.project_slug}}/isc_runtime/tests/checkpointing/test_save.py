"""What may be written."""

from __future__ import annotations

import torch

from isc_runtime.checkpointing.save import first_not_finite


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
