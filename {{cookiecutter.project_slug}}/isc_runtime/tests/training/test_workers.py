"""What is wrong with a sample is said in one sentence, be it found in a worker or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.sampler import Batch, ReplayableDataset, as_it_is
from isc_runtime.tests.training.test_ahead import Counting
from isc_runtime.training.loaders import Data, example_batch, held_out_batches, make_position, training_loader
from isc_runtime.training.streams import Chunks, StreamLoader, StreamPosition
from isc_runtime.training.workers import PreparedLoader

CASES = [
    (3, "The image is cut short: 3.png. Fetch it again."),
    (5, "torch's own collate cannot make a batch of samples: object ("),
]


def sample(index: int) -> Any:
    """One is damaged, and one nothing that torch could stack."""
    if index == 3:
        raise IscError("The image is cut short", "3.png", "Fetch it again.", ExitCode.DATA)
    return object() if index == 5 else float(index)


class Damaged(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return sample(index)


class DamagedStream(IterableDataset[Any]):
    def __init__(self, damaged: int) -> None:
        self.damaged = damaged

    def __iter__(self) -> Iterator[Any]:
        return map(sample, (0, 1, self.damaged, 2))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("damaged", "said"), CASES)
@pytest.mark.parametrize("is_stream", [False, True])
def test_it_is_said_alike(workers: int, damaged: int, said: str, is_stream: bool) -> None:
    """Torch makes a text of what a worker raises, with a traceback in it, and the exit code is lost."""
    if is_stream:
        position = StreamPosition(2, 0, 0, 1)
        chunks = Chunks(DamagedStream(damaged), None, position)
        batches = iter(StreamLoader(chunks, position, workers, torch.device("cpu")))
    else:
        batches = iter(
            PreparedLoader(
                ReplayableDataset(Damaged()),
                batch_sampler=[Batch([0, 1], 7), Batch([damaged, 2], 8)],
                collate_fn=as_it_is,
                num_workers=workers,
            )
        )
    assert next(batches).tolist() == [0.0, 1.0]
    with pytest.raises(IscError) as raised:
        next(batches)
    assert str(raised.value).startswith(said)
    assert raised.value.exit_code is ExitCode.DATA


class Curriculum(Dataset[Any]):
    """What it gives depends on a number that the training sets."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.noise = 0.0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> float:
        return self.noise


def test_workers_know_what_was_set_before_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    """They are kept over the epochs, each with a copy of the dataset; a resume's have another one."""
    data = Curriculum()
    batches = [Batch([number, number + 1], number) for number in range(4)]
    loader = PreparedLoader(
        ReplayableDataset(Subset(data, range(12))),
        batch_sampler=batches,
        collate_fn=as_it_is,
        num_workers=1,
        persistent_workers=True,
    )
    seen, workers = [], []
    for noise in (0.0, 0.0, 1.0):
        data.noise = noise
        seen.append({value for batch in loader for value in batch.tolist()})
        workers.append(loader._iterator)
    assert seen == [{0.0}, {0.0}, {1.0}]
    assert workers[0] is workers[1], "they are begun anew only if something has changed"
    assert workers[1] is not workers[2]
    assert "[STATE]" not in caplog.text
    for _ in loader:
        data.noise += 1.0
    assert caplog.text.count("data.dataset.noise was set within an epoch") == 1


class Relabelled(Dataset[Any]):
    """Whose labels a training replaces, and to which it adds samples."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.labels, self.weights = np.zeros(30), torch.zeros(30)
        self.shared: torch.Tensor = torch.zeros(30).share_memory_()  # type: ignore[no-untyped-call]
        self.pool = list(range(30))

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, index: int) -> float:
        return float(self.labels[index] + self.weights[index] + self.shared[index])


def test_workers_know_arrays_tensors_and_lists_that_were_set(caplog: pytest.LogCaptureFixture) -> None:
    data = Relabelled()
    pair = Data(data, [1])  # type: ignore[arg-type]
    position = make_position(pair, 10, 0, Group(Environment(), torch.device("cpu")))
    loader = training_loader(pair, position, 1, torch.device("cpu"))
    assert isinstance(loader, PreparedLoader)

    def epoch() -> tuple[set[float], Any]:
        values = {value for batch in loader for value in batch.tolist()}
        return values, loader._iterator._workers[0].pid  # type: ignore[union-attr]

    begun = epoch()
    data.shared += 1.0  # in place, and seen by the workers
    assert epoch() == ({1.0}, begun[1])
    data.labels = data.labels + 1.0
    assert epoch()[0] == {2.0}
    data.weights += 1.0
    last = epoch()
    assert last[0] == {3.0}
    assert not caplog.messages
    data.pool.append(30)
    assert epoch()[1] != last[1]
    assert "have 31 samples now, and an epoch is made of the 30" in caplog.text


class Shared(Dataset[Any]):
    """Counts what was read of it, wherever."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return index


class SharedStream(IterableDataset[Any]):
    """The same as a stream."""

    __module__ = "mine"

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for index in range(4):
            self.read += 1
            yield index


class Collating:
    """Makes batches with what it holds."""

    __module__ = "mine"

    def __init__(self, held: Any) -> None:
        self.held = held

    def collate(self, samples: list[Any]) -> Any:
        self.held.read += 1
        return samples


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_workers_load_is_not_read_in_this_process(is_stream: bool) -> None:
    """A file that it opened for a first sample workers would share, with one place in it for them all."""
    group = Group(Environment(), torch.device("cpu"))
    training, both = (SharedStream() if is_stream else Shared()), Shared()
    data = Data(training, both if is_stream else Subset(training, range(4)))
    position = make_position(data, 1, 0, group)
    loader = training_loader(data, position, 1, group.device)
    assert example_batch(data, position).tolist() == next(iter(loader)).tolist()
    assert [batch.tolist() for batch, _ in held_out_batches(data, 2, group)] == [[0, 1], [2, 3]]
    assert training.read == 0
    assert both.read == (4 if is_stream else 0), "what they do not hold needs no process of its own"
    with_collate = Data(training, both, Collating(training).collate)
    assert len(list(held_out_batches(with_collate, 2, group))) == 2
    assert training.read == 0


def test_reading_held_out_data_does_not_begin_workers_anew(caplog: pytest.LogCaptureFixture) -> None:
    group = Group(Environment(), torch.device("cpu"))
    both = Shared()
    data = Data(both, both)
    position = make_position(data, 1, 0, group)
    loader = training_loader(data, position, 1, group.device)
    assert isinstance(loader, PreparedLoader)
    workers = set()
    for _ in range(2):
        batches = iter(loader)
        next(batches)
        workers |= {worker.pid for worker in loader._iterator._workers}  # type: ignore[union-attr]
        list(held_out_batches(data, 2, group))
        list(batches)
    assert len(workers) == 1
    assert "[STATE]" not in caplog.text


class Slotted:
    """A dataset without a __dict__."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = range(4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return self.values[index]


@pytest.mark.parametrize("values", [np.arange(4), range(4), list(range(4)), torch.arange(4), Slotted()])
def test_whatever_has_items_is_loaded_by_workers(values: Any) -> None:
    group = Group(Environment(), torch.device("cpu"))
    data = Data(values, values)
    loader = training_loader(data, make_position(data, 2, 0, group), 1, group.device)
    assert sorted(value for batch in loader for value in batch.tolist()) == [0, 1, 2, 3]
    assert len(list(held_out_batches(data, 2, group))) == 2


def test_a_state_in_copies_of_a_dataset_is_refused() -> None:
    data = Data(Counting(), Counting())
    position = make_position(data, 4, 0, Group(Environment(), torch.device("cpu")))
    with pytest.raises(
        IscError, match=r"in workers it would be lost: --workers 1\. Load it with --workers 0"
    ):
        training_loader(data, position, 1, torch.device("cpu"))
