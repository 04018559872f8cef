"""Held-out data: each sample counts once, on any number of ranks, whatever a batch is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.training.loaders import Data, held_out_batches, make_position, training_loader


class Images(Dataset[Any]):
    """Images of 3 channels and unequal size, as a detector gets them."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4 + index, 4), float(index)), index


def as_lists(samples: list[Any]) -> Any:
    return tuple(zip(*samples, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 20])
def test_each_sample_counts_once_and_no_batch_is_cut(world_size: int, batch_size: int) -> None:
    seen, lengths = [], set()
    for rank in range(world_size):
        group = Group(Environment(rank=rank, world_size=world_size), torch.device("cpu"))
        batches = list(held_out_batches(Data(Images(), Images(), as_lists), batch_size, group))
        lengths.add(len(batches))
        for (images, indices), counts in batches:
            assert [tuple(image.shape) for image in images] == [(3, 4 + index, 4) for index in indices]
            seen += list(indices) if counts else []
    assert sorted(seen) == list(range(11))
    assert len(lengths) == 1, "all ranks get equally many"


class Short(Images):
    """The file that it reads on in has fewer entries than it says."""

    def __init__(self, entries: int) -> None:
        self.entries = entries

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.ones(1), next(entry for entry in range(self.entries) if entry == index)


@pytest.mark.parametrize("entries", [0, 7])
def test_data_that_end_early_are_no_shorter_data(entries: int) -> None:
    group = Group(Environment(), torch.device("cpu"))
    with pytest.raises(IscError, match=r"StopIteration in .* Short: .*test_held_out\.py, line \d+") as raised:
        list(held_out_batches(Data(Images(), Short(entries)), 2, group))
    assert raised.value.exit_code is ExitCode.DATA


class EndingCollate:
    def __call__(self, samples: list[Any]) -> Any:
        return next(iter([]))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("data", [Data(Short(7), Images()), Data(Images(), Images(), EndingCollate())])
def test_training_data_that_end_early_say_where(data: Data, workers: int) -> None:
    group = Group(Environment(), torch.device("cpu"))
    position = make_position(data, 2, 0, group)
    with pytest.raises(IscError, match=r"StopIteration in .*test_held_out\.py, line \d+\..*next") as raised:
        list(training_loader(data, position, workers, group.device))
    assert raised.value.exit_code is ExitCode.DATA


def test_a_collate_that_ends_a_stream_says_where() -> None:
    class Three(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([1, 2, 3])

    data, group = Data(Three(), Images(), EndingCollate()), Group(Environment(), torch.device("cpu"))
    with pytest.raises(IscError, match=r"StopIteration in .*test_held_out\.py, line \d+\..*next"):
        list(training_loader(data, make_position(data, 2, 0, group), 0, group.device))


class Drawing(Images):
    def __getitem__(self, index: int) -> Any:
        return torch.rand(())


def test_what_is_random_is_the_same_wherever_it_begins(group: Group) -> None:
    """And the training's generators do not notice: on a GPU a batch more is loaded than was evaluated."""
    data, state = Data(Images(), Drawing()), torch.get_rng_state()
    whole = [batch.tolist() for batch, _ in held_out_batches(data, 2, group)]
    rest = [batch.tolist() for batch, _ in held_out_batches(data, 2, group, begin=4)]
    assert rest == whole[2:]
    assert len({value for batch in whole for value in batch}) == 11
    assert torch.equal(torch.get_rng_state(), state)


class Stream(IterableDataset[Any]):
    """Nobody knows how long."""

    def __iter__(self) -> Iterator[Any]:
        return iter([])


@pytest.mark.parametrize(
    ("data", "which"), [(Data(Images(), Stream()), "held-out"), (Data(Dataset(), Images()), "training")]
)
def test_data_without_a_length_are_refused(data: Data, which: str) -> None:
    group = Group(Environment(), torch.device("cpu"))
    with pytest.raises(IscError, match=rf"The {which} data have no length: .*method __len__") as raised:
        make_position(data, 2, 0, group)
    assert raised.value.exit_code is ExitCode.DATA
