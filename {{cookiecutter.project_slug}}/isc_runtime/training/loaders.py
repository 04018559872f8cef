"""The batches of a rank, from whatever data.py loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import prepare_worker
from isc_runtime.sampler import ElasticSampler, ReplayableDataset, as_it_is, even_share
from isc_runtime.training.batches import first_samples


class Data(NamedTuple):
    """What there is to train on; a pair of datasets is enough.

    Attributes:
        training: a dataset with a length.
        held_out: what the model is evaluated on.
        collate: makes a batch of a list of samples; by default torch's own way, which stacks tensors.
        weights: one for each training sample: then an epoch draws in proportion to them, with replacement.
    """

    training: Dataset[Any]
    held_out: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None
    weights: Sequence[float] | None = None


def make_sampler(data: Data, batch_size: int, seed: int, group: Group) -> ElasticSampler:
    """The order of the training data on this rank.

    Args:
        data: what data.py loads.
        batch_size: samples of a batch on each rank.
        seed: of the order.
        group: the ranks.

    Raises:
        IscError: there is nothing to train on, or to evaluate on.
    """
    for name in ("training", "held_out"):
        if len(getattr(data, name)) == 0:
            raise IscError(
                f"There are no {name.replace('_', '-')} data: the dataset has no samples",
                f"load_data in data.py, {name}",
                "Look at what it reads, and at how it divides it.",
                ExitCode.DATA,
            )
    length = len(data.training)  # type: ignore[arg-type]  # torch's Dataset promises no length
    return ElasticSampler(length, batch_size, seed, group.rank, group.world_size, data.weights)


def training_loader(
    data: Data, sampler: ElasticSampler, workers: int, device: torch.device
) -> DataLoader[Any]:
    """The batches from the sampler's position to the end of the epoch, each time it is iterated.

    Args:
        data: what data.py loads.
        sampler: the order of the data.
        workers: processes that load; 0 loads in this one.
        device: where the batches will go.
    """
    return DataLoader(
        ReplayableDataset(data.training, data.collate),
        batch_sampler=sampler,
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=prepare_worker,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own: the default one would draw from the training's
        pin_memory=device.type == "cuda",
    )


def example_batch(data: Data, sampler: ElasticSampler) -> Any:
    """The batch that the training begins with; no random number generator notices."""
    return ReplayableDataset(data.training, data.collate).__getitems__(next(iter(sampler)))


def held_out_batches(data: Data, batch_size: int, group: Group) -> Iterator[tuple[Any, bool]]:
    """This rank's part of the held-out data.

    All ranks get equally many batches: in each call of the model the shards of a sharded one come together.

    Args:
        data: what data.py loads.
        batch_size: samples of a batch.
        group: the ranks.

    Yields:
        A batch, and whether it counts: False if another rank has its samples, too.
    """
    length = len(data.held_out)  # type: ignore[arg-type]
    own, counted = even_share(length, group.rank, group.world_size)
    loader = DataLoader(
        Subset(data.held_out, own), batch_size, collate_fn=data.collate, generator=torch.Generator()
    )
    for number, batch in enumerate(loader):
        count = min(batch_size, counted - number * batch_size)
        yield (first_samples(batch, count), True) if count > 0 else (batch, False)
