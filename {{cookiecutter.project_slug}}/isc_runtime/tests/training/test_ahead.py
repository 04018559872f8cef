"""One batch ahead: the same batches, and a position that is that of the training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from isc_runtime.environment import Environment
from isc_runtime.ranks.group import Group
from isc_runtime.tests.training.test_streams import Plain, Seeking, Stateful
from isc_runtime.training import ahead as module
from isc_runtime.training import loaders
from isc_runtime.training.ahead import ahead
from isc_runtime.training.loaders import Data, held_out_batches, make_position, training_loader

CPU = torch.device("cpu")


@pytest.fixture
def _as_if_it_were_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD_ON", {"cpu"})


class Numbers(Dataset[Tensor]):
    """A sample says which it is, and what was drawn for it."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> Tensor:
        self.loaded.append(index)
        return torch.stack([torch.tensor(float(index)), torch.rand(())])


class Counting(Numbers):
    """Keeps a state of its own: how many samples it has given."""

    def state_dict(self) -> dict[str, int]:
        return {"given": len(self.loaded)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = [0] * state["given"]

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index) + len(self.loaded)


def taken(kind: Any, steps: int, state: dict[str, Any] | None = None, workers: int = 0) -> tuple[Any, Any]:
    """So many batches from a position on, and what a checkpoint holds then."""
    training = kind()
    data = Data(training, TensorDataset(torch.ones(2, 1)))
    group = Group(Environment(), CPU)
    position = make_position(data, 4, 0, group)
    loader = training_loader(data, position, workers, CPU)
    if state is not None:
        position.load_state_dict(state["position"])
        for name, own in data.parts().items():
            own.load_state_dict(state[name])
    batches = []
    for batch in loader:
        batches.append(batch.tolist())
        position.advance()
        if len(batches) == steps:  # a save within the loop, as in train.py
            break
    saved = {"position": position.state_dict()}
    return batches, saved | {name: own.state_dict() for name, own in data.parts().items()}


@pytest.mark.usefixtures("_as_if_it_were_a_gpu")
@pytest.mark.parametrize(
    ("kind", "workers"),  # a state of its own does not come back from a worker
    [(kind, 0) for kind in (Numbers, Counting, Plain, Seeking, Stateful)]
    + [(kind, 2) for kind in (Numbers, Plain, Seeking)],
)
def test_what_is_saved_is_where_the_training_is(
    kind: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "AHEAD_ON", set())
        whole, _ = taken(kind, 99)
        expected = [taken(kind, steps)[1] for steps in (1, 2, 5)]
    for steps, saved in zip((1, 2, 5), expected, strict=True):
        first, state = taken(kind, steps, workers=workers)
        assert state == saved
        rest, _ = taken(kind, 99, state, workers)
        assert first + rest == whole


@pytest.mark.usefixtures("_as_if_it_were_a_gpu")
def test_the_next_batch_is_loaded_when_one_is_given_out() -> None:
    sent: list[str] = []

    def batches() -> Any:
        for number in range(3):
            sent.append(f"load {number}")
            yield torch.tensor(number)

    for batch in ahead(batches(), CPU):
        sent.append(f"train {int(batch)}")
    assert sent == ["load 0", "load 1", "train 0", "load 2", "train 1", "train 2"]


@pytest.mark.usefixtures("_as_if_it_were_a_gpu")
def test_an_empty_epoch_gives_nothing_and_an_evaluation_each_sample_once(group: Group) -> None:
    assert list(ahead([], CPU)) == []
    batches = list(held_out_batches(Data(Numbers(), Numbers()), 5, group))
    assert [int(row[0]) for batch, _ in batches for row in batch] == list(range(22))


def test_on_a_cpu_nothing_changes() -> None:
    batches = [1, 2]
    assert ahead(batches, CPU) is batches


@pytest.mark.parametrize(("kind", "is_pinned"), [("cuda", True), ("cpu", False)])
def test_batches_for_a_gpu_are_pinned(monkeypatch: pytest.MonkeyPatch, kind: str, is_pinned: bool) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(loaders, "PreparedLoader", lambda *_, **options: asked.update(options) or [])
    data = Data(Numbers(), Numbers())
    position = make_position(data, 2, 0, Group(Environment(), CPU))
    training_loader(data, position, 0, torch.device(kind))
    assert asked["pin_memory"] is is_pinned
