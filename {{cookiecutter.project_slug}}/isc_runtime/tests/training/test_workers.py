"""What is wrong with a sample is said in one sentence, be it found in a worker or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.sampler import Batch, ReplayableDataset, as_it_is
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
