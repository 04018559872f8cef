"""The batches of a rank, from whatever data.py loads."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.inside import objects_inside
from isc_runtime.position import Position
from isc_runtime.ranks.group import Group
from isc_runtime.sampler import Batch, ElasticSampler, ReplayableDataset, as_it_is, even_share, seed_of
from isc_runtime.training.ahead import ahead
from isc_runtime.training.answers import described
from isc_runtime.training.meter import Meter as Meter
from isc_runtime.training.streams import (
    Chunks,
    StreamLoader,
    StreamPosition,
    is_stateful,
    is_stream,
    refuse_workers,
)
from isc_runtime.training.workers import PreparedLoader, is_in_workers


class Data(NamedTuple):
    """What there is to train on; a pair of datasets is enough.

    Attributes:
        training: a dataset with a length, or a stream (see `streams.Chunks`).
        held_out: what the model is evaluated on.
        collate: makes a batch of a list of samples; by default torch's own way, which stacks tensors.
        weights: one for each training sample: then an epoch draws in proportion to them, with replacement.
    """

    training: Dataset[Any]
    held_out: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None
    weights: Sequence[float] | None = None

    def parts(self) -> dict[str, Any]:
        """What of the data belongs into a checkpoint: a dataset that keeps its own position."""
        return {"data": self.training} if is_stateful(self.training) else {}


def load(load_data: Callable[..., Any], *arguments: Any) -> Data:
    """What data.py loads.

    Args:
        load_data: returns a training and a held-out dataset, as a pair or as a `Data`.
        arguments: of it.

    Raises:
        IscError: it returns something else.
    """
    returned = load_data(*arguments)
    wrong = _wrong_with(returned)
    if wrong:
        raise IscError(
            f"load_data returned {wrong}",
            "data.py",
            "It must return two datasets, (training, held_out), or a Data of them with collate and weights. "
            "A stream is an object whose __iter__ begins anew each time.",
            ExitCode.DATA,
        )
    return Data(*returned)


def _wrong_with(returned: Any) -> str | None:
    if not isinstance(returned, tuple | list) or not 2 <= len(returned) <= len(Data._fields):
        return described(returned)
    data = Data(*returned)
    for name, dataset in (("training", data.training), ("held-out", data.held_out)):
        is_one = hasattr(dataset, "__getitem__") or (name == "training" and is_stream(dataset))
        if isinstance(dataset, DataLoader):
            return f"a DataLoader as {name} data: train.py makes its own, of its dataset"
        if isinstance(dataset, type) or not is_one:
            return f"{described(dataset)} as {name} data"
        if isinstance(dataset, Iterator) and type(dataset).__module__ in sys.stdlib_module_names:
            return f"{described(dataset)} as {name} data, which can be read only once"
    if data.collate is not None and not callable(data.collate):
        return f"{described(data.collate)} in third place, where the function is that makes a batch"
    return None


def make_position(data: Data, batch_size: int, seed: int, group: Group) -> ElasticSampler | StreamPosition:
    """Where this rank is in the training data, and their order if they have a length. All ranks call it.

    Args:
        data: what data.py loads.
        batch_size: samples of a batch on each rank.
        seed: of the order.
        group: the ranks.

    Raises:
        RankError: there is nothing to train on, or to evaluate on, or not the same on all ranks.
    """

    def begin() -> ElasticSampler | StreamPosition:
        _check_lengths(data)
        place = (batch_size, seed, group.rank, group.world_size)
        if is_stream(data.training):
            if data.weights is not None:
                hint = "Let the stream itself draw in proportion to them, or leave them out."
                raise IscError(
                    "A stream has no place for weights", "load_data in data.py", hint, ExitCode.DATA
                )
            return StreamPosition(*place)
        length = len(data.training)  # type: ignore[arg-type]  # torch's Dataset promises no length
        return ElasticSampler(length, *place, data.weights)

    position = group.each(begin)
    lengths = {name: len(getattr(data, name)) for name in _with_length(data)}
    group.each(partial(_check_alike, lengths, group.gather(lengths)[0]))
    return position


def _with_length(data: Data) -> list[str]:
    return ["held_out"] if is_stream(data.training) else ["training", "held_out"]


def _check_alike(lengths: dict[str, int], first: dict[str, int]) -> None:
    """All ranks must have the same data: each takes its part of them. Raises IscError."""
    for name, length in lengths.items():
        if length != first.get(name, length):  # without one, the first rank has a stream
            raise IscError(
                f"There are {length} {name.replace('_', '-')} samples here, and {first[name]} on rank 0",
                f"load_data in data.py, {name}",
                "Let it load the same data on all ranks: train.py gives each rank its part. Files that are "
                "missing on a node look like this, too.",
                ExitCode.DATA,
            )


def _check_lengths(data: Data) -> None:
    """There must be something to train on, and to evaluate on. Raises IscError."""
    for name in _with_length(data):
        try:
            length = len(getattr(data, name))
        except TypeError:
            raise IscError(
                f"The {name.replace('_', '-')} data have no length: {type(getattr(data, name)).__name__}",
                f"load_data in data.py, {name}",
                "Give the dataset a method __len__. Only the training data may be a stream; of a stream to "
                "evaluate on make a list.",
                ExitCode.DATA,
            ) from None
        if length == 0:
            raise IscError(
                f"There are no {name.replace('_', '-')} data: the dataset has no samples",
                f"load_data in data.py, {name}",
                "Look at what it reads, and at how it divides it.",
                ExitCode.DATA,
            )


def training_loader(
    data: Data, position: ElasticSampler | StreamPosition, workers: int, device: torch.device
) -> Iterable[Any]:
    """The batches from the position to the end of the epoch, each time it is iterated.

    On a GPU each is there, or on its way, when the one before it is trained on.

    Args:
        data: what data.py loads.
        position: where in the data, and in which order.
        workers: processes that load; 0 loads in this one.
        device: where the batches will go.

    Raises:
        IscError: these data cannot be loaded by workers.
    """
    refuse_workers(data.training, workers)
    if isinstance(position, StreamPosition):
        return StreamLoader(Chunks(data.training, data.collate, position), position, workers, device)
    loader = PreparedLoader(
        ReplayableDataset(data.training, data.collate),
        batch_sampler=position,
        collate_fn=as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own: the default one would draw from the training's
        pin_memory=device.type == "cuda",
    )
    # What keeps a state of its own would save one that is a batch further than the training.
    return loader if is_stateful(data.training) else ahead(loader, device)


def example_batch(data: Data, position: ElasticSampler | StreamPosition) -> Any:
    """The batch that the training begins with; no random number generator notices.

    Raises:
        IscError: a stream has no samples.
    """
    workers = int(is_in_workers(data.training))
    if isinstance(position, ElasticSampler):
        first, dataset = [next(iter(position))], ReplayableDataset(data.training, data.collate)
        return next(iter(_plain_loader(dataset, workers, batch_sampler=first)))
    # A copy: it may be what the dataset goes on counting in.
    before = copy.deepcopy(data.training.state_dict()) if is_stateful(data.training) else None  # type: ignore[attr-defined]
    chunks = _plain_loader(Chunks(data.training, data.collate, position), workers, batch_size=None)
    batch = next((batch for _, _, batch in chunks), None)
    if before is not None:
        data.training.load_state_dict(before)  # type: ignore[attr-defined]
    if batch is None:
        hint = "Look at what it reads."
        raise IscError("The stream has no samples", "load_data in data.py, training", hint, ExitCode.DATA)
    return batch


def _plain_loader(batches: Any, workers: int, **options: Any) -> PreparedLoader:
    """Of batches that are made already."""
    return PreparedLoader(
        batches, num_workers=workers, collate_fn=as_it_is, generator=torch.Generator(), **options
    )


def steps_in_all(position: Position, epochs: int, max_steps: int | None) -> int:
    """The steps of the whole training, those that are done included.

    Raises:
        IscError: a stream does not say, and neither does --max-steps.
    """
    steps = min(position.progress.step + position.batches_left(epochs), max_steps or math.inf)
    if steps == math.inf:
        hint = "Say --max-steps: the schedule of the learning rate needs it."
        raise IscError("A stream has no length, so nobody knows how long to train", "", hint, ExitCode.USAGE)
    return int(steps)


def held_out_batches(data: Data, batch_size: int, group: Group, begin: int = 0) -> Iterator[tuple[Any, bool]]:
    """This rank's part of the held-out data.

    All ranks get equally many batches: in each call of the model the shards of a sharded one come together.
    What is random in loading one is the same in each evaluation.

    Args:
        data: what data.py loads.
        batch_size: samples of a batch.
        group: the ranks.
        begin: the first sample of them that all ranks together look at.

    Yields:
        A batch, and whether it counts: False if another rank has its samples, too.
    """
    length = len(data.held_out)  # type: ignore[arg-type]
    own, counted = even_share(length, group.rank, group.world_size, begin)
    # What another rank has, too, comes in a batch of its own: no batch has to be cut, whatever it is.
    parts = [own[at : min(at + batch_size, counted)] or own[at:] for at in range(0, len(own), batch_size)]
    # What is random in them is, as in training, the same in an evaluation that was interrupted.
    batches = [Batch(part, seed_of(0, 0, part[0])) for part in parts]
    loader = _plain_loader(
        ReplayableDataset(data.held_out, data.collate),
        _held_out_workers(data),
        batch_sampler=batches,
        pin_memory=group.device.type == "cuda",
    )
    for number, batch in enumerate(ahead(loader, group.device)):
        yield batch, number * batch_size < counted


def _held_out_workers(data: Data) -> int:
    """A process of its own reads the held-out data where this one must not, or would change what is set."""
    if is_stateful(data.held_out) or not is_in_workers(data.training):
        return 0
    of_training = {id(one) for one in objects_inside((data.training, data.collate))}
    return int(any(id(one) in of_training for one in objects_inside((data.held_out, data.collate))))
