"""The order of the data: complete, new each epoch, the same on any number of ranks."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.permutation import permute
from isc_runtime.sampler import ElasticSampler, ReplayableDataset, as_it_is, even_share


def everything(length: int, seed: int, epoch: int) -> list[int]:
    indices: list[int] = permute(np.arange(length, dtype=np.uint64), length, seed, epoch).tolist()
    return indices


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_each_sample_comes_once(length: int, seed: int, epoch: int) -> None:
    assert sorted(everything(length, seed, epoch)) == list(range(length))


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    orders = [everything(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for one, other in itertools.combinations(orders, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


def test_the_order_is_random_enough() -> None:
    """Neighbours in the order are no neighbours in the data, and every place is equally likely."""
    order = np.array(everything(10_000, 0, 0))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    first = [everything(16, 0, epoch)[0] for epoch in range(1600)]
    assert all(50 < count < 160 for count in Counter(first).values())


def test_a_position_needs_no_other() -> None:
    length = 10_000_000
    position = np.array([9_000_000], dtype=np.uint64)
    again = permute(np.arange(9_000_000, 9_000_010, dtype=np.uint64), length, 1, 2)
    assert permute(position, length, 1, 2)[0] == again[0]


def consume(sampler: ElasticSampler, batches: int) -> int:
    """Advances one rank's sampler by so many batches at most; returns how many there were."""
    taken = min(batches, len(sampler))
    for _ in range(taken):
        sampler.advance()
    return taken


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3, 4])))
@pytest.mark.parametrize("length", [97, 128])
def test_an_epoch_over_changing_numbers_of_ranks_is_complete(order: tuple[int, ...], length: int) -> None:
    state = ElasticSampler(length, 4).state_dict()
    seen: list[int] = []
    for world_size in [*order, order[0]]:
        samplers = [ElasticSampler(length, 4, 0, rank, world_size) for rank in range(world_size)]
        for sampler in samplers:
            sampler.load_state_dict(state)
        is_last = world_size == order[0] and len(seen) > 0
        for sampler in samplers:
            iterator = iter(sampler)
            count = len(sampler) if is_last else 2
            seen += itertools.chain(*itertools.islice(iterator, count))
            consume(sampler, count)
        assert len({tuple(sampler.state_dict().items()) for sampler in samplers}) == 1
        state = samplers[0].state_dict()
    counts = Counter(seen)
    assert set(counts) == set(range(length))
    assert sum(counts.values()) - length < order[0]
    assert state["samples"] == length


def test_every_rank_has_batches_of_equal_size() -> None:
    batches = [list(ElasticSampler(101, 8, 0, rank, 3)) for rank in range(3)]
    sizes = [[len(batch) for batch in own] for own in batches]
    assert sizes[0] == sizes[1] == sizes[2]
    assert len(sizes[0]) == len(ElasticSampler(101, 8, 0, 0, 3))


def test_iterating_ahead_does_not_move_the_position() -> None:
    sampler = ElasticSampler(100, 10)
    list(sampler)
    assert sampler.progress.samples == 0


def test_the_next_epoch_begins_at_its_first_sample() -> None:
    sampler = ElasticSampler(100, 10)
    consume(sampler, 10)
    assert len(sampler) == 0
    assert sampler.batches_left(3) == 20
    sampler.next_epoch()
    assert (sampler.progress.epoch, sampler.progress.batch, sampler.progress.step) == (1, 0, 10)


def test_other_data_in_the_middle_of_an_epoch_is_an_error() -> None:
    sampler = ElasticSampler(100, 10)
    consume(sampler, 1)
    with pytest.raises(IscError, match=r"epoch of 100 samples, and the data have 90.*--fresh"):
        ElasticSampler(90, 10).load_state_dict(sampler.state_dict())
    consume(sampler, 9)
    sampler.next_epoch()
    grown = ElasticSampler(110, 10)
    grown.load_state_dict(sampler.state_dict())
    assert len(grown) == 11


class Noisy(Dataset[float]):
    """Draws from every generator, as an augmentation does."""

    def __getitem__(self, index: int) -> float:
        return random.random() + float(np.random.random()) + torch.rand(()).item()


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_is_new_each_epoch_and_the_same_after_a_resume(workers: int) -> None:
    def load(samples: int, epoch: int, rank: int = 0) -> list[list[float]]:
        sampler = ElasticSampler(40, 4, 0, rank, 2)
        sampler.progress.epoch, sampler.progress.samples = epoch, samples
        loader = DataLoader(
            ReplayableDataset(Noisy()),
            batch_sampler=sampler,
            collate_fn=as_it_is,
            num_workers=workers,
            generator=torch.Generator(),
        )
        return [batch.tolist() for batch in loader]

    before = torch.get_rng_state()
    whole = load(0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert load(16, 0) == whole[2:]
    assert load(0, 1) != whole
    assert load(0, 0, rank=1) != whole
    assert len({value for batch in whole for value in batch}) == 20


class OwnNoise(Dataset[Any]):
    """Draws from generators of its own, one of each kind."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.rng, self.old = np.random.default_rng(0), np.random.RandomState(0)
        self.plain, self.torch = random.Random(0), torch.Generator()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        drawn = [self.rng.random(), self.old.rand(), self.plain.random()]
        return torch.tensor([*drawn, float(torch.rand((), generator=self.torch))])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_s_own_generators_begin_at_the_position(workers: int) -> None:
    """Its copies in workers would draw what no checkpoint holds; and a wrapper hides it."""

    def rows(done: int) -> list[Any]:
        data, sampler = OwnNoise(), ElasticSampler(8, 2)
        for _ in range(done):
            sampler.advance()
        loader = DataLoader(
            ReplayableDataset(Subset(data, range(8))),
            batch_sampler=sampler,
            collate_fn=as_it_is,
            num_workers=workers,
        )
        drawn = [batch.tolist() for batch in loader]
        assert data.plain.random() == random.Random(0).random(), "the dataset's own go on as if never used"
        return drawn

    whole = rows(0)
    assert rows(2) == whole[2:]
    values = [value for batch in whole for row in batch for value in row]
    assert len(set(values)) == len(values)


class Jitter(nn.Module):
    """A transform of the user's, as torchvision has them."""

    __module__ = "mine"

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def forward(self, value: float) -> float:
        return value + float(self.rng.random())


class Hidden(Dataset[Any]):
    """Draws from generators within modules, and from one that it makes when it needs it, for some samples."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.transform = nn.Sequential(Jitter())
        self.rng: Any = None

    def __len__(self) -> int:
        return 8

    def set_epoch(self, epoch: int) -> None:
        self.rng = np.random.default_rng(epoch)

    def __getitem__(self, index: int) -> float:
        drawn: float = self.transform(0.0)
        if index < 4:
            self.rng = np.random.default_rng() if self.rng is None else self.rng
            drawn += self.rng.random()
        return drawn


def drawing_collate() -> Any:
    draws = random.Random(0)
    return lambda samples: [sample + draws.random() for sample in samples]


@pytest.mark.parametrize("is_set", [False, True])
def test_generators_that_are_hidden_or_made_later_begin_at_the_position(is_set: bool) -> None:
    def rows(done: int, epoch: int) -> list[Any]:
        data, sampler = Hidden(), ElasticSampler(8, 2)
        loader = DataLoader(
            ReplayableDataset(data, drawing_collate()), batch_sampler=sampler, collate_fn=as_it_is
        )
        for _ in range(epoch):
            list(loader)
            sampler.next_epoch()
        sampler.next_epoch() if not epoch else None
        if is_set:
            data.set_epoch(1)
        for _ in range(done):
            sampler.advance()
        return list(loader)

    whole = rows(0, 1)
    assert [rows(done, 0) for done in range(4)] == [whole[done:] for done in range(4)]


@pytest.mark.parametrize(("length", "world_size"), [(10, 3), (9, 3), (2, 4), (1, 1)])
def test_even_shares_are_equal_and_count_each_sample_once(length: int, world_size: int) -> None:
    shares = [even_share(length, rank, world_size) for rank in range(world_size)]
    assert len({len(indices) for indices, _ in shares}) == 1
    counted = [index for indices, count in shares for index in indices[:count]]
    assert sorted(counted) == list(range(length))


def test_weights_draw_in_proportion_the_same_ones_after_a_resume() -> None:
    weights = [0.0, 1.0, 3.0] + [0.0] * 3997
    sampler = ElasticSampler(4000, 100, seed=3, weights=weights)
    whole = list(sampler)
    drawn = [index for batch in whole for index in batch]
    assert set(drawn) == {1, 2}
    assert 0.7 < drawn.count(2) / len(drawn) < 0.8
    sampler.progress.samples = 1000
    assert list(sampler) == whole[10:]
    sampler.next_epoch()
    assert list(sampler) != whole


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_that_make_no_sense_are_refused(weights: list[float]) -> None:
    with pytest.raises(IscError, match=r"The weights must be 2 numbers.*data\.py") as raised:
        ElasticSampler(2, 1, weights=weights)
    assert raised.value.exit_code is ExitCode.DATA
