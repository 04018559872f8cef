"""Processes that load data, prepared to live exactly as long as their training, and to know what it knows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from isc_runtime.inside import PLAIN, data_inside, values_inside
from isc_runtime.ranks.interruption import prepare_worker, preparing_workers
from isc_runtime.sampler import ElasticSampler, Failed

logger = logging.getLogger("train")


_loaders: WeakSet[PreparedLoader] = WeakSet()


def is_in_workers(dataset: Any) -> bool:
    """Whether workers load a dataset: this process had better not.

    What a dataset opens when it is first read, a file or a database, workers that are forked later would
    share: each would move the place in the file where the others read.
    """
    return any(loader.num_workers and loader.read is dataset for loader in _loaders)


class PreparedLoader(DataLoader[Any]):
    """A DataLoader whose workers obey their training alone, from their first instruction on.

    Workers have a copy of the dataset. Where values in it have been set since they began, such as a
    difficulty that grows, or other labels, they begin anew with the next iteration, as a resume's do.

    It takes what a DataLoader takes, but for `worker_init_fn`.

    Attributes:
        read: what is loaded, the user's own.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=prepare_worker, **options)
        self._given: dict[str, str] = {}  # to the workers: what is set in the dataset
        self._held: list[Any] = []  # what is known by its identity, which no other object may get
        self._is_told = False
        own = getattr(dataset, "__dict__", {})  # of a ReplayableDataset, or of Chunks
        self.read = own.get("dataset", own.get("_dataset", dataset))
        _loaders.add(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names a private class
        self._check_length()
        if self.num_workers:
            now, self._held = _settings(self.read), [part for _, part in data_inside(self.read, "")]
            is_set = any(self._given.get(name, value) != value for name, value in now.items())
            if self._iterator is not None and is_set:
                self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # that of several processes
                self._iterator = None
            self._given = now
        with preparing_workers():
            batches = super().__iter__()
        return self._raising(batches)

    def _check_length(self) -> None:
        sampler = self.batch_sampler
        if isinstance(sampler, ElasticSampler) and len(self.read) != sampler.length:
            logger.warning(
                "[DATA] The training data have %d samples now, and an epoch is made of the %d that they had "
                "at the start. Set its length before an epoch, on all ranks: "
                "self.sampler.length = len(self.data.training).",
                *(len(self.read), sampler.length),
            )

    def _raising(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, up to one that could not be made."""
        for number, batch in enumerate(batches):
            if isinstance(batch, Failed):
                raise batch.error
            if self.num_workers and not self._is_told and not number & (number - 1):  # 0, 1, 2, 4, ...
                self._compare()
            yield batch

    def _compare(self) -> None:
        """Warns once if the dataset is no longer what the workers have: those of a resume would have it."""
        now = _settings(self.read)
        changed = [name for name, value in now.items() if self._given.get(name, value) != value]
        if changed:
            self._is_told = True
            logger.warning(
                "[STATE] %s was set within an epoch: the workers that load the data have it as it was when "
                "they began, and those of a resume would have it as it is then. Set it before the loop over "
                "the batches, or load with --workers 0.",
                changed[0],
            )


def _settings(dataset: Any) -> dict[str, str]:
    """What in a dataset a training may set, by name, as text: a value may be NaN. Of tensors and containers
    it tells whether they are others, or longer; what is written into an array is not seen.
    """
    found = values_inside(dataset, "data")
    plain = {name: repr(value) for name, value, _ in found if isinstance(value, PLAIN)}
    return {name: _identity(part) for name, part in data_inside(dataset, "data")} | plain


def _identity(part: Any) -> str:
    if isinstance(part, Tensor):
        # What is shared with the workers they see as it is.
        is_shared = part.is_shared()  # type: ignore[no-untyped-call]
        return f"{id(part)} {0 if is_shared or part.is_inference() else part._version}"
    return f"{id(part)} {'' if isinstance(part, np.ndarray) else len(part)}"
