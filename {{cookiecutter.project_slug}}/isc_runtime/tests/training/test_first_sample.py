"""A stream that is another one on another rank, or after a resume, is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks import group as ranks
from isc_runtime.ranks.group import Group
from isc_runtime.tests.training.test_streams import CPU, Seeking, Shuffled, Stateful, opened, read
from isc_runtime.training.first_sample import Opening, mark_of


@dataclass
class Sample:
    image: Any
    name: str = "a"


def test_samples_are_told_apart_by_what_they_hold() -> None:
    image = torch.arange(6.0).view(2, 3)
    assert mark_of(Sample(image)) == mark_of(Sample(image.clone()))
    others = [
        Sample(image + 1),
        Sample(image, "b"),
        Sample(image.bfloat16()),
        (image, 3),
        [image, 4.5],
        "text",
    ]
    others += [image.numpy() + 2, np.array([object()]), {"deep": {"image": image.T}}, torch.tensor(1j).conj()]
    assert len({mark_of(Sample(image)), *map(mark_of, others)}) == len(others) + 1
    assert mark_of({object()}) == mark_of({object()}), "where something lies in memory is nothing of it"
    assert mark_of(torch.eye(3).to_sparse()) == mark_of(torch.ones(3).to_sparse())


class FromPlace(IterableDataset[Tensor]):
    """Files in the order in which a directory lists them."""

    def __init__(self, begin: int) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor([float(number), 0.0]) for number in range(self.begin, self.begin + 30))


@pytest.mark.parametrize("workers", [0, 2])
def test_another_stream_after_a_resume_is_said_once(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    _, position = read(FromPlace(0), 0, 1, workers, steps=3)
    for begin in (0, 1):
        assert not caplog.messages
        again, loader, _ = opened(FromPlace(begin), 0, 1, workers)
        again.load_state_dict(position.state_dict())
        for _ in range(2):
            next(iter(loader))
    assert len(caplog.messages) == 1
    assert "not the same as when epoch 1 began. If it is another one" in caplog.text


@pytest.mark.parametrize("kind", [Shuffled, Seeking, Stateful])
def test_what_comes_again_is_not_named(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    stream = kind()
    position, loader, _ = opened(stream, 0, 1)
    for _ in range(2):
        for _ in range(2):
            for _ in loader:
                position.advance()
                break
        read(stream if kind is Stateful else kind(), 0, 1, state=position.state_dict())
        position.next_epoch()
    assert not caplog.messages


class Others(Group):
    """A group whose other rank begins elsewhere."""

    other: Opening | None = Opening(0, 7)

    def gather(self, value: Any) -> Any:
        return [value, self.other]


def test_another_stream_on_another_rank_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    group = Others(Environment(rank=0, world_size=2), CPU)
    monkeypatch.setattr(ranks, "_current", group)
    read(FromPlace(0), 0, 2)
    assert "not the same on all ranks. If it is another one" in caplog.text
    group.other = None
    with pytest.raises(IscError, match=r"ended on rank 1, and not on all ranks.*data\.py") as raised:
        read(FromPlace(0), 0, 2)
    assert raised.value.exit_code is ExitCode.DATA
