"""A step that is skipped leaves the model as it was, its running statistics included."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import register_optimizer_step_post_hook

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.parallel import clip_gradients
from isc_runtime.tests.processes import differences
from isc_runtime.tests.waits import Waits
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


@pytest.mark.parametrize("is_on_device", [False, True])
def test_a_batch_in_which_nothing_counts_is_called_so(
    is_on_device: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, metrics = nn.Linear(2, 1), dict[str, Any]()
    optimizer = torch.optim.AdamW(model.parameters(), fused=is_on_device)
    guard = StepGuard(model, metrics, most=2)

    def asked(step: int) -> None:
        guard.allows(norm, step, OFF, optimizer)
        guard.look()

    for step in (1, 2):
        guard.remember()
        model(torch.ones(1, 2)).sum().backward()
        norm = clip_gradients(model, 1.0, torch.ones(()) / torch.zeros(()))
        if step == 2:
            break
        asked(step)
        assert "step 1 is skipped, nothing in its batch counts: number 1 in a row" in caplog.text
    with pytest.raises(IscError, match="2 steps in a row were skipped, the last one because") as raised:
        asked(2)
    assert raised.value.exit_code is ExitCode.DATA


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


@pytest.mark.parametrize("is_fused", [False, True])
def test_what_a_first_forward_pass_resizes_is_taken_back(is_fused: bool) -> None:
    """As the observers of what is to be quantized do: what came of a skipped step was memory of anybody's."""
    model = nn.Linear(1, 1)
    model.register_buffer("lowest", torch.tensor([]))
    lowest: Any = model.lowest
    optimizer = torch.optim.AdamW(model.parameters(), fused=is_fused)
    guard = StepGuard(model, {}, most=5)
    for _ in range(2):
        guard.remember()
        lowest.resize_(4).fill_(1.0)
        assert not guard.allows(NAN, 1, OFF, optimizer)
        assert lowest.shape == (0,)
    guard.remember()
    lowest.resize_(4).fill_(1.0)
    assert guard.allows(FINE, 2, OFF, optimizer)
    guard.remember()
    lowest.fill_(torch.nan)
    guard.allows(NAN, 3, OFF, optimizer)
    assert lowest.tolist() == [1.0] * 4


def test_what_a_first_forward_pass_makes_is_taken_back() -> None:
    model = Codebook()
    guard = StepGuard(model, {}, most=5)
    guard.remember()
    model(torch.nan)
    assert not guard.allows(NAN, 1, OFF)
    assert model.later is None
    assert model.growing.tolist() == [1.0]


def test_what_is_tried_out_leaves_nothing_behind() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1), Codebook())
    model[0].eval()  # as one that is frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with StepGuard(model, {}, most=5).untouched():
        assert not any(module.training for module in model.modules())
        model[1](2.0)
        model[0].running_mean.add_(1)  # type: ignore[operator]
    assert before.keys() == model.state_dict().keys()
    assert all(
        torch.equal(before[name].to_dense(), now.to_dense()) for name, now in model.state_dict().items()
    )
    assert [model.training, model[0].training, model[1].training] == [True, False, True]


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


def train(model: nn.Module, guard: StepGuard, is_fused: bool, steps: range, bad: set[int]) -> Any:
    """Some steps, the bad ones with data that are not finite; returns the optimizer's state after them."""
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=is_fused)
    for step in steps:
        torch.manual_seed(step)
        guard.remember()
        inputs = torch.randn(8, 4)
        loss = model(inputs * (torch.nan if step in bad else 1.0)).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if guard.allows(norm, step, OFF, optimizer):
            optimizer.step()
    return optimizer.state_dict()["state"]


def test_a_step_that_the_device_leaves_out_leaves_nothing_behind() -> None:
    """As if it had not been: weights, running statistics, the optimizer's moments and its count of steps."""
    model, metrics = model_with_memory(), dict[str, Any]()
    other, nothing_bad = copy.deepcopy(model), dict[str, Any]()
    state = train(model, StepGuard(model, metrics, most=5), True, range(6), bad={2, 3, 5})
    guard = StepGuard(other, nothing_bad, most=5)
    optimizer = torch.optim.AdamW(other.parameters(), 0.1, fused=True)
    for step in (0, 1, 4):
        torch.manual_seed(step)
        optimizer.zero_grad()
        torch.autograd.backward(other(torch.randn(8, 4)).square().mean())
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
    assert guard.look() == {}
    assert differences(model.state_dict(), other.state_dict()) == []
    assert differences(state, optimizer.state_dict()["state"]) == []
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (3, 1)


def test_a_fused_step_asks_the_device_for_nothing() -> None:
    model = model_with_memory()
    guard = StepGuard(model, {}, most=5)
    train(model, guard, True, range(2), bad=set())
    with Waits() as waits:
        train(model, guard, True, range(2, 6), bad={3})
    assert waits.count == 0
    with Waits() as waits:
        train(model, guard, False, range(6, 7), bad=set())
    assert waits.count > 0  # what waits is noticed


def test_what_the_device_has_counted_is_said_when_it_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    model, metrics = nn.Linear(4, 4), dict[str, Any]()
    guard = StepGuard(model, metrics, most=3)
    train(model, guard, True, range(1, 8), bad={2, 5, 6})
    assert caplog.text == ""
    assert guard.look() == {"skipped": 3}
    assert "step 6 is skipped" in caplog.text
    assert "number 2 in a row; 3 since the last line" in caplog.text
    caplog.clear()
    assert guard.look() == {"skipped": 3}
    assert caplog.text == ""


def test_too_many_in_a_row_end_the_training_at_the_next_look_and_over_a_resume() -> None:
    model, metrics = nn.Linear(4, 4), dict[str, Any]()
    train(model, StepGuard(model, metrics, most=3), True, range(2), bad={1})
    restored = dict[str, Any]()
    guard = StepGuard(model, restored, most=3)
    restored |= {name: copy.deepcopy(value) for name, value in metrics.items()}
    train(model, guard, True, range(2, 5), bad={2, 3})
    with pytest.raises(IscError, match=r"3 steps in a row were not finite: step 3\.") as raised:
        guard.look()
    assert raised.value.exit_code is ExitCode.DIVERGED


def test_a_step_that_two_optimizers_leave_out_counts_once() -> None:
    metrics = dict[str, Any]()
    guard = StepGuard(nn.Linear(1, 1), metrics, most=9)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], fused=True)
    for step, norms in enumerate([(NAN, FINE), (FINE, NAN), (NAN, NAN)]):
        assert [guard.allows(norm, step, OFF, optimizer) for norm in norms] == [True, True]
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (3, 3)


def test_others_are_asked_as_before() -> None:
    guard = StepGuard(nn.Linear(1, 1), {}, most=9)
    parameters = [torch.zeros(1, requires_grad=True)]
    for optimizer in (torch.optim.LBFGS(parameters), torch.optim.SGD(parameters, fused=False)):
        assert not guard.allows(NAN, 1, OFF, optimizer)
    scaler = GradScaler("cpu", init_scale=2.0)
    scaler.scale(FINE)
    assert not guard.allows(NAN, 2, scaler, torch.optim.SGD(parameters, fused=True))


def test_what_follows_a_step_follows_none_that_is_left_out() -> None:
    """An average of the weights that a hook takes, on the optimizer or on all of them."""
    averaged = list[int]()
    guard = StepGuard(nn.Linear(1, 1), {}, most=9)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], fused=True)
    assert guard.allows(NAN, 0, OFF, optimizer)  # the device leaves it out
    own = optimizer.register_step_post_hook(lambda *_: averaged.append(1))
    assert not guard.allows(NAN, 1, OFF, optimizer)
    assert guard.allows(FINE, 2, OFF, optimizer)
    optimizer.step()
    own.remove()
    of_all = register_optimizer_step_post_hook(lambda *_: averaged.append(2))
    try:
        assert not guard.allows(NAN, 3, OFF, optimizer)
    finally:
        of_all.remove()
    assert guard.allows(NAN, 4, OFF, optimizer)
    assert averaged == [1]


class Counting(nn.Linear):
    """Counts its batches, and tells that."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.seen: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(self.seen))
        return super().forward(inputs)

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


@pytest.mark.parametrize("is_fused", [False, True])
def test_what_a_module_tells_of_itself_is_taken_back(is_fused: bool) -> None:
    model = Counting()
    train(model, StepGuard(model, {}, most=5), is_fused, range(6), bad={1, 2, 4})
    assert model.seen == [0, 1, 2]


class Queue(nn.Linear):
    """Binds its buffer anew in the forward pass, every other time."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("last", torch.zeros(4))
        self.calls = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls % 2 == 0:
            self.last = inputs.mean(dim=0)
        return super().forward(inputs) + self.last


def test_what_is_bound_anew_is_waited_for_and_no_earlier_step_s_answer_is_left() -> None:
    model, metrics = Queue(), dict[str, Any]()
    state = train(model, StepGuard(model, metrics, most=5), True, range(6), bad={2, 3})
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert {int(own["step"]) for own in state.values()} == {4}
