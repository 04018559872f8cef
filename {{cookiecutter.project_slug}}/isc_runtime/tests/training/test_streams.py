"""A stream goes on at its position: nothing is missed, on any number of ranks and workers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.training.loaders import Data, example_batch, make_position, steps_in_all, training_loader
from isc_runtime.training.streams import StreamPosition

CPU = torch.device("cpu")
LENGTH = 53


class Plain(IterableDataset[Tensor]):
    """Knows nothing of ranks, workers or positions; draws random numbers as it goes."""

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(LENGTH):
            yield torch.tensor([float(number), random.random()])


class Shuffled(IterableDataset[Tensor]):
    """The usual buffer to shuffle in, from files in an order that is drawn before the first sample; and what
    all three generators draw for a sample."""

    def __iter__(self) -> Iterator[Tensor]:
        files = random.sample([range(0, 20), range(20, 37), range(37, LENGTH)], 3)
        return self.drawn(itertools.chain(*files))

    def drawn(self, numbers: Iterator[int]) -> Iterator[Tensor]:
        buffer: list[int] = []
        for number in numbers:
            buffer.append(number)
            if len(buffer) > 12:
                yield self.sample(buffer.pop(random.randrange(len(buffer))))
        random.shuffle(buffer)
        yield from map(self.sample, buffer)

    def sample(self, number: int) -> Tensor:
        return torch.tensor([float(number), random.random() + np.random.rand() + float(torch.rand(()))])


class Seeking(IterableDataset[Tensor]):
    """Can begin anywhere."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[Tensor]:
        return self.samples_from(0, 0)

    def samples_from(self, epoch: int, sample: int) -> Iterator[Tensor]:
        self.asked.append((epoch, sample))
        for number in range(sample, LENGTH):
            yield torch.tensor([float(number), float(epoch)])


class Stateful(Plain):
    """Keeps its own position, as torchdata's do."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.next < LENGTH:
            self.next += 1
            yield torch.tensor([float(self.next - 1), 0.0])
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def opened(stream: Any, rank: int, ranks: int, workers: int = 0) -> tuple[StreamPosition, Any, Data]:
    data = Data(stream, TensorDataset(torch.ones(2, 1)))
    group = Group(Environment(rank=rank, world_size=ranks), CPU)
    position = make_position(data, 4, 0, group)
    assert isinstance(position, StreamPosition)
    return position, training_loader(data, position, workers, CPU), data


def read(stream: Any, rank: int, ranks: int, workers: int = 0, steps: int = 99, state: Any = None) -> Any:
    """The batches of a rank from a position on, and where it is then."""
    position, loader, _ = opened(stream, rank, ranks, workers)
    if state is not None:
        position.load_state_dict(state)
    batches: list[list[list[float]]] = []
    for batch in loader:
        batches.append(batch.tolist())
        position.advance()
        if len(batches) == steps:
            break
    return batches, position


@pytest.mark.parametrize("kind", [Plain, Seeking, Shuffled])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 3), (4, 1)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_where_all_ranks_were(kind: Any, before: int, after: int, workers: int) -> None:
    first = [read(kind(), rank, before, workers, steps=3) for rank in range(before)]
    state = first[0][1].state_dict()
    assert all(position.state_dict() == state for _, position in first)
    assert state["samples"] == 3 * 4 * before
    rest = [read(kind(), rank, after, workers, state=state) for rank in range(after)]
    assert all(position.is_epoch_done for _, position in rest)
    seen = [int(number) for batches, _ in first + rest for batch in batches for number, _ in batch]
    assert set(seen) == set(range(LENGTH))
    assert len(seen) - LENGTH < after, "fewer samples come twice than there are ranks"
    if before == after:
        whole = [read(kind(), rank, before, 0)[0] for rank in range(before)]
        assert [one[0] + two[0] for one, two in zip(first, rest, strict=True)] == whole


def test_what_a_stream_draws_depends_on_the_position_alone() -> None:
    """Not on the batch size, on how often an evaluation interrupts it, on what the training has drawn."""
    whole = [sample for batch in read(Shuffled(), 0, 1)[0] for sample in batch]
    position, _, data = opened(Shuffled(), 0, 1)
    seen: list[list[float]] = []
    for position.batch_size in (5, 4, 7, 99):
        random.seed(len(seen))  # as a rank of its own does
        for batch in training_loader(data, position, 0, CPU):
            seen += batch.tolist()
            position.advance()
            break
    assert seen == whole
    position.next_epoch()
    another = [value for batch in training_loader(data, position, 0, CPU) for value, _ in batch.tolist()]
    assert set(another) == {value for value, _ in seen}
    assert another != [value for value, _ in seen]


def test_what_is_random_in_a_batch_differs_by_rank() -> None:
    def noise(rank: int) -> float:
        data = Data(Plain(), TensorDataset(torch.ones(2, 1)), lambda _: torch.rand(()))
        position = make_position(data, 4, 0, Group(Environment(rank=rank, world_size=2), CPU))
        return float(next(iter(training_loader(data, position, 0, CPU))))

    assert noise(0) == noise(0) != noise(1)


def test_an_older_checkpoint_within_an_epoch_says_what_may_be_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING", "train")
    _, position = read(Plain(), 0, 1, steps=3)
    new = position.state_dict()
    old = {name: value for name, value in new.items() if name != "is_drawn_by_sample"}
    for state in (new, {**old, "samples": 0}, {**old, "is_done": True}):
        position.load_state_dict(state)
    assert not caplog.messages
    position.load_state_dict(old)
    assert "some of its samples may come twice, and others not at all" in caplog.text
    assert position.state_dict() == new


def test_a_stream_that_can_seek_is_asked_to() -> None:
    stream = Seeking()
    _, position = read(stream, 0, 1, steps=3)
    read(stream, 0, 1, state=position.state_dict())
    assert stream.asked == [(0, 0), (0, 12)]


def test_a_stream_that_keeps_its_own_position_is_a_part_of_the_checkpoint() -> None:
    stream = Stateful()
    position, loader, data = opened(stream, 0, 1)
    assert data.parts() == {"data": stream}
    example_batch(data, position)
    batches = iter(loader)
    assert next(batches)[:, 0].tolist() == [0, 1, 2, 3], "the example is not consumed"
    position.advance()
    again = Stateful()
    again.load_state_dict(stream.state_dict())
    rest, _ = read(again, 0, 1, state=position.state_dict())
    assert rest[0][0][0] == 4
    with pytest.raises(IscError, match=r"state_dict keeps its position itself.*--workers 2"):
        opened(stream, 0, 1, workers=2)


def test_a_stream_that_begins_anew_unless_it_was_restored_goes_on_after_an_evaluation() -> None:
    """The loop leaves it in the middle of an epoch, and comes back."""

    class Restartable(Stateful):
        is_restored = False

        def __iter__(self) -> Iterator[Tensor]:
            self.next = self.next if self.is_restored else 0
            self.is_restored = False
            return super().__iter__()

        def load_state_dict(self, state: dict[str, int]) -> None:
            super().load_state_dict(state)
            self.is_restored = True

    position, loader, data = opened(Restartable(), 0, 1)
    seen = []
    for _ in range(3):
        for batch in loader:
            seen.append(batch[0, 0].item())
            position.advance()
            if len(seen) % 2 == 0:
                break
    assert seen == [0, 4, 8, 12, 16, 20]

    # At the end of an epoch too: what was restored there ends at once, and begins anew after that.
    assert position.progress.samples == 24
    for _ in loader:
        position.advance()
    position.next_epoch()
    again = Restartable()
    again.load_state_dict(data.training.state_dict())  # type: ignore[attr-defined]
    first, _ = read(again, 0, 1, steps=1, state=position.state_dict())
    assert [value for value, _ in first[0]] == [0, 1, 2, 3]


def test_the_example_is_not_consumed_by_what_hands_out_its_own_state() -> None:
    class Open(Stateful):
        def __init__(self) -> None:
            self.state = {"next": 0}

        def __iter__(self) -> Iterator[Tensor]:
            while self.state["next"] < LENGTH:
                self.state["next"] += 1
                yield torch.tensor([float(self.state["next"] - 1), 0.0])

        def state_dict(self) -> dict[str, int]:
            return self.state

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.state.update(state)

    position, loader, data = opened(Open(), 0, 1)
    assert example_batch(data, position)[:, 0].tolist() == next(iter(loader))[:, 0].tolist() == [0, 1, 2, 3]


class Iterable:
    """Of another library: it can only be iterated, and knows nothing of torch."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.arange(8.0)


def test_what_can_only_be_iterated_is_a_stream() -> None:
    batches, position = read(Iterable(), 0, 2)
    assert (batches, position.is_epoch_done) == ([[0, 1, 2, 3]], True)


def test_a_resume_at_the_very_end_of_a_stream_is_no_empty_stream() -> None:
    _, position = read(Plain(), 0, 1)
    assert read(Plain(), 0, 1, state={**position.state_dict(), "is_done": False})[0] == []


def test_without_a_length_somebody_has_to_say_how_long() -> None:
    position, _, _ = opened(Plain(), 0, 1)
    assert steps_in_all(position, 1, 10) == 10
    with pytest.raises(IscError, match=r"A stream has no length.*--max-steps") as raised:
        steps_in_all(position, 1, None)
    assert raised.value.exit_code is ExitCode.USAGE


def test_an_empty_stream_is_said_before_training() -> None:
    class Empty(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter([])

    position, loader, data = opened(Empty(), 0, 1)
    for act in (lambda: example_batch(data, position), lambda: list(loader)):  # alone there is no example
        with pytest.raises(IscError, match="no samples") as raised:
            act()
    assert raised.value.exit_code is ExitCode.DATA
