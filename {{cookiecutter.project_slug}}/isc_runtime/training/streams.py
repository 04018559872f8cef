"""Data without a length: an IterableDataset, resumed at its position on any number of ranks and workers."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from isc_runtime import rng
from isc_runtime.errors import START_OVER, ExitCode, IscError
from isc_runtime.inside import generators_inside
from isc_runtime.ranks import group as ranks
from isc_runtime.sampler import as_it_is, carried, collated, no_early_end, seed_of
from isc_runtime.training import first_sample
from isc_runtime.training.ahead import ahead
from isc_runtime.training.first_sample import Opening
from isc_runtime.training.stream_position import StreamPosition as StreamPosition
from isc_runtime.training.workers import PreparedLoader

OPENING = -1  # takes the place of a sample's position in the seed for what is drawn before the first one


def _same(value: Any) -> Any:
    return value


def is_stateful(dataset: Any) -> bool:
    """Whether a dataset keeps its own position, as torchdata's do."""
    return hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict")


def is_stream(dataset: Any) -> bool:
    """Whether a dataset can only be iterated, as torch's IterableDataset or another library's."""
    return isinstance(dataset, IterableDataset) or (
        hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    )


def refuse_workers(dataset: Any, workers: int) -> None:
    """What keeps a state of its own would change it in the workers' copies. Raises IscError."""
    if workers and is_stateful(dataset):
        raise IscError(
            "A dataset with a state_dict keeps its position itself, and in workers it would be lost",
            f"--workers {workers}",
            "Load it with --workers 0, or without a state_dict: what a sample draws is the same after a "
            "resume, and a stream with a method samples_from(epoch, sample) begins anywhere.",
            ExitCode.USAGE,
        )


class Chunks(IterableDataset[Any]):
    """The batches of one rank, and in a worker only those that are its turn.

    Every rank and every worker reads the whole stream and takes its share: that is exact whatever the stream
    is, and on another number of ranks too. A stream that can begin anywhere says so with a method
    `samples_from(epoch, sample)`, an iterator; else what was consumed before is read again and dropped.

    Args:
        dataset: yields samples, the same ones in the same order each time.
        collate: makes a batch of samples.
        position: where to begin.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any] | None, position: StreamPosition
    ) -> None:
        self._dataset = dataset
        self._collate = collate or collated
        self._position = position
        self._generators: dict[str, Any] = {}  # the stream's own
        self._opening = Opening(0, first_sample.UNKNOWN)

    def __iter__(self) -> Iterator[tuple[int, Opening, Any]]:
        """Yields how many samples all ranks consume, where that begun, and this rank's batch of them."""
        with carried() as failed:
            yield from self._batches()
            return
        yield failed  # a PreparedLoader raises what is in it

    def _batches(self) -> Iterator[tuple[int, Opening, Any]]:
        worker = get_worker_info()
        turn, turns = (worker.id, worker.num_workers) if worker else (0, 1)
        # A stream that divides itself among workers, as torch's own example does, would be divided twice.
        torch_worker._worker_info = None
        for number, (begin, chunk) in enumerate(self._chunks()):
            if number % turns == turn:
                own = [chunk[index % len(chunk)] for index in self._position.share(len(chunk))]
                seed = self._seed(begin + self._position.share(len(chunk)).start)
                with rng.seeded(seed, generators_inside(self._collate)), no_early_end(self._dataset):
                    batch = self._collate(own)
                yield len(chunk), self._opening, batch

    def _chunks(self) -> Iterator[tuple[int, list[Any]]]:
        """What all ranks consume together, batch by batch, from the position on."""
        progress, size = self._position.progress, self._position.world_size * self._position.batch_size
        samples, begin = self._open()
        # What was restored at the end of an epoch ends at once, and begins anew the next time.
        may_begin_anew = is_stateful(self._dataset) and not progress.samples
        while True:
            wanted = min(size, progress.samples - begin) if begin < progress.samples else size
            chunk = self._take(samples, begin, wanted)
            if not chunk and may_begin_anew and not begin:
                (samples, _), may_begin_anew = self._open(), False
                continue
            if not chunk:
                self._check_end(begin)
                return
            if begin >= progress.samples:
                yield begin, chunk
            begin += len(chunk)

    def _check_end(self, samples: int) -> None:
        """A stream must not end before it comes to the position. Raises IscError."""
        progress = self._position.progress
        if samples < progress.samples:
            raise IscError(
                f"The stream has ended after {samples} samples, and of epoch {progress.epoch + 1} "
                f"{progress.samples} were trained on already",
                "load_data in data.py, training",
                "It must yield the same samples in the same order each time it is iterated: look for files "
                f"that are missing now, and for what is opened in __init__ and used up. Or {START_OVER}.",
                ExitCode.DATA,
            )

    def _open(self) -> tuple[Iterator[Any], int]:
        """The samples, and where in the stream they begin. Raises IscError: it does not begin anew."""
        if is_stateful(self._dataset):
            return self._begun()
        self._generators = known = generators_inside(self._dataset)
        samples, begin = self._begun()
        first = self._take(samples, begin, 1)
        self._generators = generators_inside(self._dataset)
        if self._generators.keys() - known.keys():  # made by nobody's seed, when it was first needed
            samples, begin = self._begun()
            first = self._take(samples, begin, 1)
            self._generators = generators_inside(self._dataset)
        self._opening = Opening(begin, first_sample.mark_of(first))
        return itertools.chain(first, samples), begin

    def _begun(self) -> tuple[Iterator[Any], int]:
        # On each rank, and each time, the same shuffled files, say.
        with rng.seeded(self._seed(OPENING), self._generators):
            samples, begin = self._begun_anywhere()
        is_last = samples is self._position.read_last()
        if is_last and samples is not self._dataset and not is_stateful(self._dataset):
            raise IscError(
                "The stream's __iter__ returns what was read from already, and samples would be lost",
                f"{type(self._dataset).__name__}, load_data in data.py, training",
                "Let its __iter__ begin anew each time: what is opened or made in __init__ is used up.",
                ExitCode.DATA,
            )
        try:
            self._position.read_last = weakref.ref(samples)  # what it holds open should be closed by now
        except TypeError:  # one of Python's own
            self._position.read_last = partial(_same, samples)
        return samples, begin

    def _begun_anywhere(self) -> tuple[Iterator[Any], int]:
        progress = self._position.progress
        if hasattr(self._dataset, "samples_from"):
            return iter(self._dataset.samples_from(progress.epoch, progress.samples)), progress.samples
        is_amidst = is_stateful(self._dataset) and progress.samples > 0
        if is_amidst:  # an evaluation may have interrupted it
            self._dataset.load_state_dict(self._dataset.state_dict())
        return iter(self._dataset), progress.samples if is_amidst else 0

    def _take(self, samples: Iterator[Any], begin: int, wanted: int) -> list[Any]:
        """The next samples, as many as there are. What is drawn for one depends on its place in the stream
        alone: not on the batches, which are others on another number of ranks.
        """
        chunk: list[Any] = []
        with rng.undisturbed(self._generators.values()):
            for place in range(begin, begin + wanted):
                rng.seed_cpu(self._seed(place), self._generators)
                try:
                    chunk.append(next(samples))
                except StopIteration:
                    break
        return chunk

    def _seed(self, place: int) -> int:
        return seed_of(self._position.seed, self._position.progress.epoch, place)


class StreamLoader:
    """The batches of one rank from the position to the end of the stream, each time it is iterated.

    Args:
        chunks: of the stream.
        position: told how much each batch consumes.
        workers: processes that load; 0 loads in this one.
        device: where the batches will go.

    Raises:
        IscError: the stream keeps its own position, which it could not do in workers.
    """

    def __init__(self, chunks: Chunks, position: StreamPosition, workers: int, device: torch.device) -> None:
        refuse_workers(chunks._dataset, workers)
        self._position = position
        self._is_told = False
        loader = PreparedLoader(
            chunks,
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=workers,  # begun anew at each epoch: that is how they learn where to begin
            generator=torch.Generator(),
            pin_memory=device.type == "cuda",
        )
        # What keeps its own position would save one that is a batch further than the training.
        self._loader = loader if is_stateful(chunks._dataset) else ahead(loader, device)

    def __iter__(self) -> Iterator[Any]:
        """Yields this rank's batches. Raises IscError: an epoch has none."""
        is_first, is_empty = True, self._position.progress.samples == 0
        for consumed, opening, batch in self._loader:
            if is_first:
                self._compare(opening)
            self._position.coming, is_first = consumed, False
            yield batch
        if is_first:
            self._compare(None)
        if is_first and is_empty:
            epoch = self._position.progress.epoch
            raise IscError(
                f"The stream has no samples in epoch {epoch + 1}" if epoch else "The stream has no samples",
                "load_data in data.py, training",
                "Let its __iter__ begin anew each time: what is opened or made in __init__ may be used up."
                if epoch
                else "Look at what it reads.",
                ExitCode.DATA,
            )
        self._position.end()

    def _compare(self, opening: Opening | None) -> None:
        """Warns, once, if the stream is another one: than on other ranks, than before. A collective."""
        position, group = self._position, ranks._current
        is_same = group is None or group.world_size == 1 or first_sample.is_same_on_ranks(opening, group)
        found = None if is_same else "on all ranks"
        if opening is not None and not opening.begin:
            if position.first_sample is None:
                position.first_sample = opening.mark
            elif position.first_sample != opening.mark:
                found = found or f"as when epoch {position.progress.epoch + 1} began"
        if found and not self._is_told and (group is None or group.is_master):
            first_sample.warn(found)
            self._is_told = True
