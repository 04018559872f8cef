"""A snapshot stays as it is, and its memory is used again."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.saving.snapshot import Snapshot, deferrable
from isc_runtime.tests.processes import differences


def test_a_snapshot_does_not_change_with_its_original() -> None:
    state: dict[str, Any] = {"a": torch.ones(3), "b": [torch.zeros(2), ("x", torch.ones(1))], "c": 4}
    taken = Snapshot().take(state)
    state["a"].zero_()
    state["b"][1][1].zero_()
    assert taken["a"].tolist() == [1, 1, 1]
    assert taken["b"][1][1].tolist() == [1]
    assert (taken["b"][1][0], taken["c"]) == ("x", 4)


def test_what_a_part_holds_twice_is_one_tensor_in_it() -> None:
    """An average of tied weights is averaged twice in a step, by either name; so it is after a resume. What
    two parts hold becomes a tensor of each."""
    tied, zero = torch.ones(2, 2), torch.zeros(0)
    average = {"first": tied, "last": tied.view(2, 2), "turned": tied.t(), "none": zero, "nothing": zero[:]}
    taken = Snapshot().take({"average": average, "best": {"first": tied}})
    assert taken["average"]["first"] is taken["average"]["last"]
    others = [taken["average"]["turned"], taken["best"]["first"]]
    assert all(one.data_ptr() != taken["average"]["first"].data_ptr() for one in others)
    tied.zero_()
    assert taken["average"]["last"].tolist() == taken["best"]["first"].tolist() == [[1, 1], [1, 1]]


def test_buffers_are_allocated_once() -> None:
    snapshot, weights = Snapshot(), torch.ones(1000)
    first = snapshot.take({"w": weights})["w"].data_ptr()
    assert snapshot.take({"w": weights + 1})["w"].data_ptr() == first
    assert snapshot.take({"w": torch.ones(1000, dtype=torch.float64)})["w"].dtype == torch.float64


class Training:
    """A model and its optimizer after a step, and a snapshot of both that puts off what it can."""

    def __init__(self) -> None:
        self.model = nn.BatchNorm1d(4)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1.0)
        self.snapshot = Snapshot()
        self.waited = 0.0
        self.before_hold: Callable[[], None] = lambda: None
        self.optimizer.register_step_pre_hook(lambda *_: self.hold())
        self.step()

    def step(self) -> None:
        """A batch: it changes buffers in its forward pass, and weights in its step."""
        torch.autograd.backward(self.model(torch.randn(8, 4)).square().sum())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def hold(self) -> None:
        self.before_hold()
        self.waited += self.snapshot.wait_until_copied()

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()["state"]}

    def take(self) -> Any:
        return self.snapshot.take(self.state(), deferrable([self.optimizer], []))


def test_what_is_put_off_is_copied_before_a_step_changes_it() -> None:
    training = Training()
    expected = copy.deepcopy(training.state())
    taken = training.take()
    background = threading.Timer(0.2, training.snapshot.complete)
    training.before_hold = background.start
    training.step()  # waits for it
    background.join()
    assert differences(taken, expected) == []
    assert not training.snapshot.is_torn()
    assert 0.1 < training.waited < 5
    assert differences(training.state(), expected)


def test_a_snapshot_that_is_not_saved_holds_up_no_step() -> None:
    training = Training()
    training.take()
    training.snapshot.abandon()
    training.step()  # would wait for ever
    assert not training.snapshot.is_torn()


def test_only_what_an_optimizer_owns_is_put_off() -> None:
    """A forward pass changes the buffers of a BatchNorm, long before the step."""
    training = Training()
    taken = training.take()
    expected = {name: tensor.clone() for name, tensor in training.model.named_buffers()}
    training.model(torch.randn(8, 4))
    training.snapshot.complete()
    assert all(torch.equal(taken["model"][name], tensor) for name, tensor in expected.items())


def test_an_optimizer_may_keep_more_than_states_of_parameters() -> None:
    """Torch's own state_dict takes such entries as they are."""
    weights = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weights], 0.1)
    entries: Any = {"steps": 3, "average": torch.ones(4), weights: {"momentum": torch.ones(5), "list": []}}
    optimizer.state.update(entries)
    owned = deferrable([optimizer], [])
    assert sorted(tensors[0].numel() for tensors in owned.values()) == [2, 4, 5]


def change_weights(weights: torch.Tensor) -> None:
    """A change by hand, as torch's version counter sees it."""
    with torch.no_grad():
        weights.sub_(0.25)


def change_data(weights: torch.Tensor) -> None:
    """The same in a way that no counter sees."""
    weights.data.sub_(0.25)


@pytest.mark.parametrize("change", [change_weights, change_data])
def test_a_change_that_is_not_the_step_s_is_noticed_and_nothing_put_off_any_more(
    change: Callable[[torch.Tensor], None],
) -> None:
    training = Training()
    training.take()
    change(training.model.weight)
    training.snapshot.complete()
    assert training.snapshot.is_torn()
    training.step()
    assert training.snapshot.is_torn()
    expected = copy.deepcopy(training.state())
    taken = training.take()
    change_data(training.model.weight)
    training.snapshot.complete()
    assert differences(taken, expected) == []
    assert not training.snapshot.is_torn()


def test_nothing_is_left_to_another_thread_on_a_mac() -> None:
    """Two threads that use its GPU at once may kill the process."""
    training = Training()
    training.snapshot = Snapshot(torch.device("mps"))
    expected = copy.deepcopy(training.state())
    taken = training.take()
    assert differences(taken, expected) == []  # before anybody has completed it
    training.step()
    training.snapshot.complete()
    assert differences(taken, expected) == []
    assert not training.snapshot.is_torn()


class Event:
    """As CUDA's: it knows when the stream came to it."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at: float | None = None

    def record(self, stream: Stream) -> None:
        self.at = stream.now

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, other: Event) -> float:
        assert self.at is not None
        assert other.at is not None
        return other.at - self.at

    def synchronize(self) -> None:
        pass


class Stream:
    """As CUDA's: it waits for an event, in milliseconds."""

    now = 100.0

    def wait_event(self, event: Event) -> None:
        assert event.at is not None
        self.now = max(self.now, event.at)


def test_what_a_gpu_waits_for_a_copy_is_part_of_what_a_save_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU runs on meanwhile, and sees nothing of it."""
    training, stream, copied = Training(), Stream(), Event()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    training.take()
    copied.at = 350.0
    training.snapshot._copied_by_gpu = copied  # type: ignore[assignment]
    training.snapshot.complete()
    assert training.snapshot.gpu_waited() == 0
    training.step()
    assert training.snapshot.gpu_waited() == pytest.approx(0.25)
    assert training.snapshot.gpu_waited() == 0, "it is told once"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_copies_while_it_computes() -> None:
    weights = torch.ones(2**24, device="cuda", requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=1.0)
    snapshot = Snapshot()
    taken = snapshot.take({"w": weights}, deferrable([optimizer], []))
    weights.grad = torch.ones_like(weights)
    snapshot.wait_until_copied()
    optimizer.step()
    snapshot.complete()
    assert torch.equal(taken["w"], torch.ones(2**24))
    assert weights.sum().item() == 0


@pytest.mark.parametrize("is_asked", [False, True])
def test_what_changes_after_a_whole_copy_was_written_is_no_tear(is_asked: bool) -> None:
    """The writer asks whether it is torn; after that the copy is as it was, but the weights are others."""
    training = Training()
    training.take()
    training.snapshot.complete()
    if is_asked:
        assert not training.snapshot.is_torn()
    change_weights(training.model.weight)
    training.step()
    assert (training.snapshot.is_torn(), training.snapshot.is_left_behind) == (not is_asked, is_asked)
