"""Frozen weights are copied once, and what changes all the same is in every snapshot as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isc_runtime.checkpointing.saving.snapshot import Snapshot, deferrable
from isc_runtime.checkpointing.saving.unchanged import Unchanged
from isc_runtime.errors import IscError
from isc_runtime.tests.waits import Copies

LARGE = 256  # rows and columns: 256 kB


def bits(state: dict[str, dict[str, Tensor]]) -> list[bytes]:
    values = [value.contiguous().view(-1) for part in state.values() for value in part.values()]
    return [value.view(torch.uint8).numpy().tobytes() for value in values]


class Tuning:
    """A large frozen model, and a small one that is trained on top of it."""

    def __init__(self) -> None:
        self.body = nn.Linear(LARGE, LARGE).requires_grad_(False)
        self.head = nn.Linear(LARGE, 1)
        self.parts = [self.body, self.head]
        self.optimizer = torch.optim.SGD(self.head.parameters(), 0.1)
        self.snapshot = Snapshot()
        self.copied = 0

    def save(self) -> bool:
        """Takes a snapshot, and looks whether it is right; False if it says itself that it is torn."""
        state = {"body": self.body.state_dict(), "head": self.head.state_dict()}
        expected = bits(state)
        with Copies() as copies:
            taken = self.snapshot.take(state, deferrable([self.optimizer], self.parts))
        self.copied = copies.bytes
        self.snapshot.complete()
        is_torn = self.snapshot.is_torn()
        assert is_torn or bits(taken) == expected
        return not is_torn

    def train(self) -> None:
        torch.autograd.backward(self.head(self.body(torch.ones(2, LARGE))).square().mean())
        self.optimizer.step()


@pytest.mark.parametrize("is_given", [False, True])
def test_frozen_weights_are_copied_once_also_if_the_optimizer_was_given_them(is_given: bool) -> None:
    training = Tuning()
    if is_given:
        training.optimizer.add_param_group({"params": [*training.body.parameters()]})
    copied = []
    for _ in range(5):
        assert training.save()
        copied.append(training.copied)
        training.train()
    size = training.body.weight.nbytes
    assert copied[0] >= size > max(copied[1:])


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "counted": lambda weight: weight.mul_(0.9),
    "through .data": lambda weight: weight.data.mul_(0.9),
    "one value through .data": lambda weight: weight.data[-1, 3:4].add_(1),
    "the sign of a zero": lambda weight: weight.data[0, :1].copy_(-weight.data[0, :1]),
    "bound anew": lambda weight: setattr(weight, "data", weight.data + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_teacher_that_follows_is_saved_as_it_is(change: str) -> None:
    training = Tuning()
    training.body.weight.data[0, 0] = 0.0
    for _ in range(6):
        CHANGES[change](training.body.weight)
        assert training.save(), "nothing is torn"


@pytest.mark.parametrize("quiet", [1, 2, 3])
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_after_a_while_is_saved_as_it_is_or_said_to_be_torn_once(
    change: str, quiet: int
) -> None:
    training = Tuning()
    training.body.weight.data[0, 0] = 0.0
    assert [training.save() for _ in range(quiet)] == [True] * quiet
    CHANGES[change](training.body.weight)
    is_seen_by_torch = change in ("counted", "bound anew")
    assert training.save() == (is_seen_by_torch or quiet == 1)
    for _ in range(4):
        CHANGES[change](training.body.weight)
        assert training.save()


def test_what_is_no_number_equals_itself() -> None:
    training = Tuning()
    training.body.weight.data[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for _ in range(4):
        assert training.save()
    assert training.copied < training.body.weight.nbytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_of_any_type_and_size(dtype: torch.dtype) -> None:
    training = Tuning()
    whole = torch.randn(3 * LARGE * LARGE + 1).to(dtype)
    training.body.weight = nn.Parameter(whole[1:].view(3, LARGE, LARGE)[1:, :, 1:], requires_grad=False)
    training.body.bias = nn.Parameter(whole[1 : 2 * LARGE * LARGE], requires_grad=False)
    for _ in range(4):
        assert training.save()


ODD: dict[str, Callable[[], Tensor]] = {
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(LARGE, LARGE), 0.1, 0, torch.qint8),
    "channels last": lambda: torch.randn(2, 3, LARGE, LARGE).to(memory_format=torch.channels_last),
    "conjugated": lambda: torch.randn(LARGE, LARGE, dtype=torch.complex64).conj(),
    "negated": lambda: torch.randn(LARGE, LARGE, dtype=torch.complex64).conj().imag,
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # some day there will be none
@pytest.mark.parametrize("kind", ODD)
def test_what_is_more_than_its_bytes(kind: str) -> None:
    module, snapshot = nn.Module(), Snapshot()
    module.weight = nn.Parameter(ODD[kind](), requires_grad=False)
    for _ in range(4):
        taken = snapshot.take(dict(module.state_dict()), deferrable([], [module]))
        snapshot.complete()
        assert not snapshot.is_torn()
        assert torch.equal(taken["weight"], module.weight)


def test_what_cannot_be_saved_is_refused_in_words() -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(LARGE, LARGE).to_sparse(), requires_grad=False)
    with pytest.raises(IscError, match="sparse"):
        Snapshot().take(dict(module.state_dict()), deferrable([], [module]))


def test_what_is_thawed_is_trained_and_saved() -> None:
    training = Tuning()
    for _ in range(3):
        assert training.save()
    training.body.requires_grad_(True)
    training.optimizer.add_param_group({"params": [*training.body.parameters()]})
    for _ in range(3):
        training.train()
        assert training.save()


def test_memory_that_is_new_holds_nothing() -> None:
    training = Tuning()
    for _ in range(3):
        assert training.save()
    for rows in (2 * LARGE, LARGE, 3 * LARGE):
        training.body.weight = nn.Parameter(torch.randn(rows, LARGE), requires_grad=False)
        for _ in range(3):
            assert training.save()


class Far:
    """A frozen weight that is told by its fingerprint, as if it were on a GPU, and the copy of it."""

    def __init__(self) -> None:
        self.weight = torch.randn(LARGE, LARGE)
        self.weight[0, 0] = 0.0
        self.copy = torch.empty_like(self.weight)
        self.unchanged = Unchanged(is_far=lambda _: True)
        self.copied = 0

    def save(self) -> bool:
        """Copies if it has to, and looks whether the copy is right; False if that is said itself."""
        pairs = self.unchanged.to_copy([(self.copy, self.weight)])
        self.copied = len(pairs)
        for buffer, tensor in pairs:
            buffer.copy_(tensor)
        self.unchanged.fingerprint_copied()
        is_right = self.unchanged.are_unchanged()
        assert not is_right or bits({"": {"": self.copy}}) == bits({"": {"": self.weight}})
        return is_right


def test_what_is_far_is_copied_until_two_saves_have_found_the_same() -> None:
    far, copied = Far(), []
    for _ in range(5):
        assert far.save()
        copied.append(far.copied)
    assert copied == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("quiet", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_far_and_changes_is_copied_or_said_to_be_torn_once(change: str, quiet: int) -> None:
    far = Far()
    assert [far.save() for _ in range(quiet)] == [True] * quiet
    CHANGES[change](far.weight)
    is_seen_by_torch = change in ("counted", "bound anew")
    assert far.save() == (is_seen_by_torch or quiet < 2)
    for _ in range(4):
        CHANGES[change](far.weight)
        assert far.save()


def test_without_room_for_a_fingerprint_all_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    for room in range(4):
        far = Far()
        assert [far.save() for _ in range(room)] == [True] * room
        with monkeypatch.context() as patch:
            patch.setattr("isc_runtime.checkpointing.saving.unchanged.fingerprint", fail)
            assert far.save() == (room < 2), "what was not copied, and cannot be compared, is no copy"
            far.weight.data.add_(1)
            assert far.save()
        for _ in range(3):
            far.weight.data.add_(1)
            assert far.save()
