"""Which values are not finite, of whatever type they are."""

from __future__ import annotations

import pytest
import torch

from isc_runtime.checkpointing.saving.finite import names_of_not_finite

NAN, INF = float("nan"), float("inf")


def test_what_is_not_finite_is_named() -> None:
    state = {
        "good": torch.ones(2),
        "count": torch.tensor(1),
        "plain": NAN,
        "text": "nan",
        "bad": [torch.tensor([1.0, NAN])],
    }
    assert list(names_of_not_finite(state, "model")) == ["model.bad.0"]
    del state["bad"]
    assert list(names_of_not_finite(state)) == []


def test_what_is_not_trained_may_hold_a_mask() -> None:
    """What diverges holds a NaN or a +inf somewhere, too."""
    masked = torch.full((2, 2), -torch.inf).triu(1)
    state = {
        "weight": masked,
        "mask": masked,
        "half": masked.half(),
        "float8": masked.to(torch.float8_e5m2),
        "variance": -masked,
        "mean": torch.tensor([-torch.inf, torch.nan]),
    }
    trained = frozenset({"model.weight"})
    assert list(names_of_not_finite(state, "model", trained)) == [
        "model.weight",
        "model.variance",
        "model.mean",
    ]


def test_what_overflows_in_a_sum_is_finite_all_the_same() -> None:
    assert list(names_of_not_finite({"large": torch.full((100,), 3e38)})) == []
    assert list(names_of_not_finite({"opposed": torch.tensor([INF, -INF])})) == ["opposed"]


TYPES = [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.complex32, torch.complex64]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", TYPES)
def test_of_any_type(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    assert list(names_of_not_finite({"x": values.to(dtype)})) == []
    values[1] = NAN
    assert list(names_of_not_finite({"x": values.to(dtype)})) == ["x"]


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="this torch has no float4")
def test_what_has_no_nan_is_finite() -> None:
    values = torch.arange(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert list(names_of_not_finite({"x": values})) == []
