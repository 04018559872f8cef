"""What streams of people do: divide themselves, are used up, draw from generators of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.training.test_streams import LENGTH, Iterable, Plain, opened, read
from isc_runtime.training.loaders import example_batch


class UsedUp(IterableDataset[Tensor]):
    """What it opens once is not there a second time."""

    def __init__(self) -> None:
        self.samples: Iterator[Tensor] = iter(torch.arange(8.0))

    def __iter__(self) -> Iterator[Tensor]:
        return self.samples


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_is_used_up_does_not_let_the_training_wait_for_ever(workers: int) -> None:
    position, loader, _ = opened(UsedUp(), 0, 1, workers)
    for _ in loader:
        position.advance()
    position.next_epoch()
    if workers:  # each has a copy of its own
        assert len(list(loader)) == 2
        return
    with pytest.raises(IscError, match=r"what was read from already.*UsedUp.*begin anew each time") as raised:
        list(loader)
    assert raised.value.exit_code is ExitCode.DATA


def test_a_stream_that_goes_on_where_an_evaluation_left_it_loses_samples_and_is_refused() -> None:
    position, loader, _ = opened(UsedUp(), 0, 1)
    for _ in loader:
        position.advance()
        break
    with pytest.raises(IscError, match="samples would be lost"):
        list(loader)
    position, loader, data = opened(UsedUp(), 0, 2)
    example_batch(data, position)  # the first batch, which the training then would not see
    with pytest.raises(IscError, match="samples would be lost"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_ends_before_the_position_is_no_end_of_an_epoch(workers: int) -> None:
    """As when a file of it is missing on another machine."""
    _, position = read(Plain(), 0, 1, steps=3)
    state = position.state_dict()
    with pytest.raises(IscError, match=r"ended after 8 samples, and of epoch 1 12 were trained") as raised:
        read(Iterable(), 0, 1, workers, state=state)
    assert raised.value.exit_code is ExitCode.DATA


class DividedAmongWorkers(IterableDataset[Tensor]):
    """As the example in torch's documentation."""

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        begin, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return (torch.tensor([float(number), 0.0]) for number in range(begin, LENGTH, step))


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_stream_that_divides_itself_among_workers_is_whole(workers: int) -> None:
    batches, _ = read(DividedAmongWorkers(), 0, 1, workers)
    assert [int(number) for batch in batches for number, _ in batch] == list(range(LENGTH))


class OwnDraws(IterableDataset[Tensor]):
    """Shuffles with generators of its own: one that it has, and one that it makes when it needs it."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.order, self.later = random.Random(0), None

    def __iter__(self) -> Iterator[Tensor]:
        numbers = list(range(LENGTH))
        self.order.shuffle(numbers)
        for number in numbers:
            if self.later is None:
                self.later = np.random.default_rng()  # type: ignore[assignment]
            yield torch.tensor([float(number), self.later.random() + self.order.random()])  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 2])
def test_what_a_stream_draws_from_its_own_generators_comes_again(workers: int, after: int) -> None:
    stream = OwnDraws()
    position, loader, _ = opened(stream, 0, 1, workers)
    epochs: list[list[list[float]]] = []
    for _ in range(2):
        epochs.append([])
        for batch in loader:
            epochs[-1] += batch.tolist()
            position.advance()
        position.next_epoch()
    assert [number for number, _ in epochs[0]] != [number for number, _ in epochs[1]]
    assert stream.order.random() == random.Random(0).random(), "the stream's own go on as if never used"
    state = {**position.state_dict(), "epoch": 1, "samples": 12}
    rest = [read(OwnDraws(), rank, after, workers, state=state)[0] for rank in range(after)]
    seen = [tuple(sample) for batches in rest for batch in batches for sample in batch]
    assert set(seen) == {tuple(sample) for sample in epochs[1][12:]}
