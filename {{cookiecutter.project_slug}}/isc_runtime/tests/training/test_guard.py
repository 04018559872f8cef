"""A step that is skipped leaves the model as it was, its running statistics included."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.guard import StepGuard

OFF = GradScaler("cpu", enabled=False)
NAN, FINE = torch.tensor(torch.nan), torch.tensor(1.0)


def model_with_memory() -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Dropout(0.1)
    )


def test_a_skipped_step_leaves_nothing_behind() -> None:
    model, metrics = model_with_memory(), dict[str, Any]()
    guard = StepGuard(model, metrics, most=5)
    for step in range(3):
        guard.remember()
        model(torch.randn(8, 4))
        assert guard.allows(FINE, step, OFF)
    expected = copy.deepcopy(model.state_dict())
    guard.remember()
    model(torch.full((8, 4), torch.nan))
    assert not all(value.isfinite().all() for value in model.state_dict().values())
    assert not guard.allows(NAN, 3, OFF)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, 1)
    guard.remember()
    model(torch.randn(8, 4))
    assert guard.allows(FINE, 4, OFF)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, 0)


class Codebook(nn.Module):
    """Changes itself in all the ways that a forward pass may: through `.data`, in place, bound anew."""

    large: torch.Tensor
    anew: torch.Tensor
    growing: torch.Tensor
    later: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.ones(4), requires_grad=False)
        self.average = nn.Parameter(torch.ones(4))
        self.register_buffer("large", torch.ones(2**17))
        self.register_buffer("anew", torch.ones(2**17))
        self.register_buffer("growing", torch.ones(1))
        self.register_buffer("later", None)
        self.register_buffer("sparse", torch.eye(2).to_sparse())
        self.register_buffer("expanded", torch.ones(1).expand(3))
        self.register_buffer("float8", torch.ones(3).to(torch.float8_e4m3fn))

    def forward(self, value: float) -> None:
        self.codes.data.mul_(value)
        self.large.data.mul_(value)
        with torch.no_grad():
            self.average = nn.Parameter(self.average * value)
        self.anew = self.anew * value
        self.growing = torch.cat([self.growing, torch.tensor([value])])
        self.later = torch.tensor(value)


def test_whatever_a_forward_pass_changes_is_taken_back() -> None:
    model = Codebook()
    guard = StepGuard(model, {}, most=5)
    for step in range(2):
        guard.remember()
        model(2.0)
        assert guard.allows(FINE, step, OFF)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    bound = dict(model.named_parameters())
    guard.remember()
    model(torch.nan)
    assert not guard.allows(NAN, 2, OFF)
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name].to_dense(), value.to_dense()) for name, value in expected.items())
    assert all(value is bound[name] for name, value in model.named_parameters())


def test_what_a_first_forward_pass_makes_is_taken_back() -> None:
    model = Codebook()
    guard = StepGuard(model, {}, most=5)
    guard.remember()
    model(torch.nan)
    assert not guard.allows(NAN, 1, OFF)
    assert model.later is None
    assert model.growing.tolist() == [1.0]


def test_a_first_step_that_is_skipped_is_not_taken_for_a_mistake_of_the_loop() -> None:
    """With fp16 it is the rule; the schedule goes on, and torch warns of a scheduler before its optimizer."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard = StepGuard(model, {}, most=2)
        if not guard.allows(NAN, 1, OFF):
            scheduler.step()


def test_too_many_in_a_row_end_the_training() -> None:
    guard = StepGuard(nn.Linear(1, 1), {}, most=2)
    assert not guard.allows(NAN, 7, OFF)
    with pytest.raises(IscError, match=r"2 steps in a row were not finite: step 8\.") as raised:
        guard.allows(NAN, 8, OFF)
    assert raised.value.exit_code is ExitCode.DIVERGED


def test_an_overflow_that_a_scaler_can_still_avoid_is_no_failure() -> None:
    """fp16 begins with a scale that is too large, and comes down from it."""
    metrics = dict[str, Any]()
    guard = StepGuard(nn.Linear(1, 1), metrics, most=2)
    scaler = GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(FINE)  # it is made at the first use
    for step in range(9):
        assert not guard.allows(NAN, step, scaler)
        scaler.update(scaler.get_scale() / 2)  # as it does when it has found an overflow
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (9, 0)


def test_what_no_smaller_scale_can_avoid_is_a_failure_though_a_scaler_is_there() -> None:
    """The norm of gradients that are finite themselves may overflow, a mean over nothing is NaN: then the
    scaler found nothing, and its scale stays as it is."""
    metrics = dict[str, Any]()
    guard = StepGuard(nn.Linear(1, 1), metrics, most=3)
    scaler = GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(FINE)
    for step in range(3):
        assert not guard.allows(NAN, step, scaler)
    assert metrics == {"skipped": 3, "skipped_in_a_row": 2, "skipped_at_scale": 2.0**10}
    with pytest.raises(IscError, match="3 steps in a row"):
        guard.allows(NAN, 3, scaler)


def test_a_scale_that_comes_down_to_where_it_was_before_is_no_failure() -> None:
    metrics = dict[str, Any]()
    guard = StepGuard(nn.Linear(1, 1), metrics, most=1)
    scaler = GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(FINE)
    for step in range(0, 8, 2):  # it grows again after some good steps, and overflows at the same scale
        assert not guard.allows(NAN, step, scaler)
        assert guard.allows(FINE, step + 1, scaler)
    assert metrics["skipped_in_a_row"] == 0


@pytest.mark.parametrize("norms", [(NAN, FINE), (FINE, NAN), (NAN, NAN)], ids=["first", "second", "both"])
@pytest.mark.parametrize("scaler", [OFF, GradScaler("cpu", init_scale=1.0)], ids=["without", "with a scaler"])
def test_a_step_that_one_of_two_optimizers_skips_counts_once(
    norms: tuple[torch.Tensor, ...], scaler: GradScaler
) -> None:
    """The good steps of the other one do not hide that it is skipped for ever."""
    metrics = dict[str, Any]()
    guard = StepGuard(nn.Linear(1, 1), metrics, most=3)
    scaler.scale(FINE)
    for step in range(2):
        assert [guard.allows(norm, step, scaler) for norm in norms] == [norm is FINE for norm in norms]
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 2)
    with pytest.raises(IscError, match="3 steps in a row"):
        [guard.allows(norm, 2, scaler) for norm in norms]


def test_a_step_that_neither_of_two_optimizers_skips_ends_the_row() -> None:
    metrics = dict[str, Any]()
    guard = StepGuard(nn.Linear(1, 1), metrics, most=2)
    for step in range(0, 8, 2):
        assert [guard.allows(norm, step, OFF) for norm in (FINE, NAN)] == [True, False]
        assert [guard.allows(norm, step + 1, OFF) for norm in (FINE, FINE)] == [True, True]
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (4, 0)
