"""Processes that load data, prepared to live exactly as long as their training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from isc_runtime.ranks.interruption import prepare_worker, preparing_workers
from isc_runtime.sampler import Failed


class PreparedLoader(DataLoader[Any]):
    """A DataLoader whose workers obey their training alone, from their first instruction on.

    It takes what a DataLoader takes, but for `worker_init_fn`.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=prepare_worker, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names a private class
        with preparing_workers():
            batches = super().__iter__()
        return _raising(batches)


def _raising(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches, up to one that could not be made."""
    for batch in batches:
        if isinstance(batch, Failed):
            raise batch.error
        yield batch
