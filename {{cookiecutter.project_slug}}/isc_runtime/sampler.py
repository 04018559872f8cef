"""The order of the data: a pure function of (seed, epoch, position), for any number of ranks.

Nothing is shuffled and nothing is stored. Sample number i of an epoch is `permute(i)`, a keyed bijection
that costs the same for the first sample and the ten-millionth; so a run goes on at any position, on any
number of ranks, without replaying what came before.
"""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler, default_collate, get_worker_info

from isc_runtime import rng
from isc_runtime.errors import START_OVER, ExitCode, IscError
from isc_runtime.inside import generators_inside
from isc_runtime.permutation import Draws, permute
from isc_runtime.position import Position

BATCHES_AT_ONCE = (
    32  # the permutation is computed for a few batches together, which costs about as much as for one
)


def seed_of(seed: int, epoch: int, position: int) -> int:
    """The seed for what is random in loading the batch that begins at a position of an epoch."""
    return hash((seed, epoch, position)) % 2**32


class Batch(list[int]):
    """The indices of a batch, and the seed for what is random in loading it.

    Attributes:
        seed: the same whenever this batch is loaded, and another for each epoch, position and rank.
    """

    def __init__(self, indices: list[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed


def even_share(length: int, rank: int, world_size: int, begin: int = 0) -> tuple[list[int], int]:
    """One rank's part of a dataset, from a sample on, in order, with as many samples as any other rank's.

    Returns:
        The indices, and how many of them count: the last one may be another rank's, to make up the number.
    """
    most = -(-(length - begin) // world_size)
    indices = [(begin + rank + number * world_size) % length for number in range(most)]
    return indices, len(range(begin + rank, length, world_size))


class Failed:
    """What a worker gives in place of a batch. Of an error torch would make a text, and lose its exit code.

    Attributes:
        error: to be raised by whoever gets it.
    """

    error: IscError


@contextlib.contextmanager
def carried() -> Iterator[Failed]:
    """Ends the block at an IscError, and keeps that in what it has given; raises it if this is no worker."""
    failed, is_worker = Failed(), get_worker_info() is not None
    try:
        yield failed
    except IscError as error:
        if not is_worker:
            raise
        failed.error = error


def collated(samples: list[Any]) -> Any:
    """A batch of samples, made in torch's own way: tensors are stacked, numbers and arrays become tensors.

    Raises:
        IscError: torch cannot do that with such samples.
    """
    try:
        return default_collate(samples)
    except (TypeError, RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise IscError(
            f"torch's own collate cannot make a batch of samples: {type(samples[0]).__name__} ({reason})",
            "load_data in data.py",
            "Return a Data with a function that can: Data(training, held_out, collate=...).",
            ExitCode.DATA,
        ) from error


@contextlib.contextmanager
def no_early_end(dataset: object) -> Iterator[None]:
    """A batch is loaded in the block, and a StopIteration is an error there.

    Whoever loops over a loader takes it for the end of the data.

    Raises:
        IscError: in place of a StopIteration.
    """
    try:
        yield
    except StopIteration as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise IscError(
            f"StopIteration in the loading of a batch of {type(dataset).__name__}",
            f"{place.filename}, line {place.lineno}",
            "As a rule a next(...) there has found nothing: there is less to read than __len__ says. "
            "Correct the one or the other.",
            ExitCode.DATA,
        ) from error


class ReplayableDataset(Dataset[Any]):
    """Makes all that is random in loading a batch a function of the position in the training.

    A worker's own random numbers would begin anew with every epoch and after every resume. The training's
    are not touched. For `DataLoader(batch_sampler=ElasticSampler(...), collate_fn=as_it_is)`.

    Args:
        dataset: what is loaded; it may draw from Python's, NumPy's and torch's generators, and from
            generators of its own unless it keeps their state itself, with a `state_dict`.
        collate: makes a batch of samples, and may draw, too; by default torch's own way.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any] | None = None) -> None:
        self.dataset = dataset
        self.collate = collate or collated

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # torch's Dataset promises no length

    def __getitems__(self, batch: list[int]) -> Any:
        """A batch; a DataLoader's loaders call it."""
        assert isinstance(batch, Batch)  # and no other sampler's
        with carried() as failed:
            known = self._generators()
            made = self._made(batch, known)
            # One that came up in this batch was seeded by nobody; after a resume it may be another batch.
            now = self._generators()
            return self._made(batch, now) if now.keys() - known.keys() else made
        return failed

    def _made(self, batch: Batch, generators: dict[str, Any]) -> Any:
        several = getattr(self.dataset, "__getitems__", None)
        with rng.seeded(batch.seed, generators), no_early_end(self.dataset):
            return self.collate(several(batch) if several else [self.dataset[index] for index in batch])

    def _generators(self) -> dict[str, Any]:
        """Its own ones, each time anew: they may be set for an epoch, or made when they are first needed."""
        return {} if hasattr(self.dataset, "state_dict") else generators_inside(self)


def as_it_is(batch: Any) -> Any:
    """What a ReplayableDataset returns is a batch already."""
    return batch


class ElasticSampler(Position, Sampler[list[int]]):
    """The batches of one rank, for `DataLoader(batch_sampler=...)`.

    Each batch of all ranks together takes the next `world_size * batch_size` samples of the epoch's order.
    The last one takes what is left, the same number on every rank: when that does not come out even, the
    first samples of the order fill up, so fewer than `world_size` samples are seen twice and none is missed.

    An iteration begins at `progress`, which `advance` and `next_epoch` move on: not the iteration itself,
    because a DataLoader asks for batches long before they are trained on.

    Args:
        length: samples in the dataset.
        batch_size: samples of a batch on one rank.
        seed: together with the epoch it determines the order.
        rank: of this process.
        world_size: number of ranks.
        weights: of each sample: with them samples are drawn with replacement, in proportion, as many as there
            are in an epoch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(f"length and batch_size must be positive, not {length} and {batch_size}")
        super().__init__(batch_size, seed, rank, world_size)
        self.length = length
        self._draws = None if weights is None else Draws(weights, length)

    def samples_in_batch(self, samples: int) -> int:
        """Samples that all ranks consume in the batch that begins at position `samples`."""
        return min(self.world_size * self.batch_size, self.length - samples)

    def __len__(self) -> int:
        """Batches that are left in the epoch."""
        return self._batches(self.length - self.progress.samples)

    def batches_left(self, epochs: int) -> float:
        """Batches that are left of a training of so many epochs."""
        return len(self) + (epochs - self.progress.epoch - 1) * self._batches(self.length)

    def _batches(self, samples: int) -> int:
        return -(-samples // (self.world_size * self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        epoch, batches = self.progress.epoch, self._positions(self.progress.samples)
        while block := list(itertools.islice(batches, BATCHES_AT_ONCE)):
            indices = self._choose(np.concatenate(block), epoch)
            parts = np.split(indices, np.cumsum([len(positions) for positions in block])[:-1])
            for positions, part in zip(block, parts, strict=True):
                yield Batch(part.tolist(), seed_of(self.seed, epoch, int(positions[0])))

    def _choose(self, positions: NDArray[np.uint64], epoch: int) -> NDArray[np.integer[Any]]:
        """Which samples are at these positions of the epoch's order."""
        if self._draws is None:
            return permute(positions, self.length, self.seed, epoch)
        return self._draws.at(positions, self.seed, epoch)

    def _positions(self, samples: int) -> Iterator[NDArray[np.uint64]]:
        """The positions of this rank's batches, from the global position `samples` to the epoch's end."""
        while samples < self.length:
            consumed = self.samples_in_batch(samples)
            own = self.share(consumed)
            positions = np.arange(samples + own.start, samples + own.stop, dtype=np.uint64)
            yield positions % np.uint64(self.length)
            samples += consumed

    @property
    def is_epoch_done(self) -> bool:
        """Whether nothing is left of the epoch."""
        return self.progress.samples >= self.length

    @property
    def own_samples(self) -> int:
        """Samples of the batch that is trained on now, on each rank: on all of them as many."""
        return len(self.share(self.samples_in_batch(self.progress.samples)))

    @property
    def epochs_done(self) -> float:
        """Epochs trained so far, with the part of the present one."""
        return self.progress.epoch + self.progress.samples / self.length

    def check_epoch_is_done(self) -> None:
        """To be called when the loader has no more batches.

        Raises:
            IscError: there should be more.
        """
        if not self.is_epoch_done:
            raise self._mismatch(f"no more batches after {self.progress.samples} of {self.length} samples")

    def advance(self) -> None:
        """Counts the batch that was just trained on, on all ranks.

        Raises:
            IscError: the epoch has no more batches.
        """
        if self.is_epoch_done:
            raise self._mismatch(f"more batches than an epoch of {self.length} samples has")
        self._count(self.samples_in_batch(self.progress.samples))

    def _mismatch(self, what: str) -> IscError:
        return IscError(
            f"The loader has {what}",
            f"epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}",
            "Let it take its batches from the ElasticSampler: DataLoader(batch_sampler=...). A loader of "
            "your own ends early, too, where a dataset or a collate lets a StopIteration out.",
            ExitCode.DATA,
        )

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps; the number of ranks is not part of it."""
        return {**super().state_dict(), "length": self.length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from there, in the order that the checkpoint's seed gives.

        Raises:
            IscError: in the middle of an epoch the dataset has another length than it had.
        """
        state = dict(state)
        length = state.pop("length", self.length)
        super().load_state_dict(state)
        if length != self.length and self.progress.samples:
            raise IscError(
                f"The checkpoint is within an epoch of {length} samples, and the data have {self.length}",
                hint=f"Train on the same data, or {START_OVER}.",
                exit_code=ExitCode.CHECKPOINT,
            )
