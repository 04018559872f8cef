"""The next batch is on its way to the GPU while this one is computed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

from isc_runtime.training.batches import to_device

AHEAD_ON = frozenset({"cuda"})  # elsewhere there is nothing to move, or nothing beside which it could be
T = TypeVar("T")


def ahead(batches: Iterable[T], device: torch.device) -> Iterable[T]:
    """The same batches; for a GPU each is there, or on its way, when the one before it is given out.

    So one more batch is loaded than was given out, and lost when nobody asks for it. Where the training is,
    is not for the loader to say, but what keeps its own position must not be read ahead.

    Args:
        batches: trees of tensors, which should be in pinned memory: only that is copied beside other work.
        device: where they go.
    """
    return _Ahead(batches, device) if device.type in AHEAD_ON else batches


class _Ahead(Iterable[Any]):
    """Moves each batch on a stream of its own, to which its memory belongs, too.

    That stream waits for all that was asked of the device before. So what was freed until then is no longer
    in use when it is filled anew, whatever a batch is made of.
    """

    def __init__(self, batches: Iterable[Any], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __iter__(self) -> Iterator[Any]:
        coming: list[tuple[Any, torch.cuda.Event | None]] = []
        for batch in self._batches:
            coming.append(self._send(batch))
            del batch  # pinned memory is used again as soon as it was read
            if len(coming) > 1:
                yield self._arrived(*coming.pop(0))
        if coming:
            yield self._arrived(*coming.pop())

    def _send(self, batch: Any) -> tuple[Any, torch.cuda.Event | None]:
        """The batch on its way, and what tells when it is there."""
        if self._device.type != "cuda":
            return to_device(batch, self._device), None
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            return to_device(batch, self._device), self._stream.record_event()

    def _arrived(self, batch: Any, event: torch.cuda.Event | None) -> Any:
        """The batch, for the stream on which the training computes: that waits, and nobody else."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)
        return batch
