"""How much of a stream all ranks together have consumed: what a resume goes on from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from isc_runtime.position import Position

logger = logging.getLogger("train")


def no_iterator() -> Any:
    """In place of a reference to one."""
    return None


class StreamPosition(Position):
    """How much of a stream all ranks together have consumed."""

    def __init__(self, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        super().__init__(batch_size, seed, rank, world_size)
        self.coming = 0  # samples that all ranks consume in the batch that the loader gave last
        self.read_last: Callable[[], Any] = no_iterator  # the iterator that was read last, in this process
        self.first_sample: int | None = None  # the mark of the epoch's
        self._is_done = False

    @property
    def is_epoch_done(self) -> bool:
        """Whether the stream has ended; known only after its last batch."""
        return self._is_done

    @property
    def own_samples(self) -> int:
        """Samples of the batch that is trained on now, on each rank: on all of them as many."""
        return len(self.share(self.coming))

    def batches_left(self, epochs: int) -> float:
        """Nobody knows."""
        return math.inf

    def end(self) -> None:
        """The stream has no more samples."""
        self._is_done = True

    def check_epoch_is_done(self) -> None:
        """The loader has said so itself, with `end`."""

    def advance(self) -> None:
        """Counts the batch that was just trained on, on all ranks."""
        self._count(self.coming)

    def next_epoch(self) -> None:
        """Begins the stream anew."""
        super().next_epoch()
        self._is_done, self.first_sample = False, None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: also whether the stream has ended, for an evaluation that is under way."""
        own = {"is_done": self._is_done, "is_drawn_by_sample": True, "first_sample": self.first_sample}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        state = dict(state)
        self.first_sample = state.pop("first_sample", None)
        self._is_done = bool(state.pop("is_done", False))  # before 0.2.0 the loader found it out again
        is_drawn_by_sample = state.pop("is_drawn_by_sample", False)
        super().load_state_dict(state)
        if self.progress.samples and not (self._is_done or is_drawn_by_sample):
            logger.warning(
                "[DATA] This checkpoint is from the middle of an epoch, and of a version in which a stream "
                "drew other random numbers. If it draws any (it shuffles, say), the rest of this epoch is "
                "drawn anew: some of its samples may come twice, and others not at all. Later ones are whole."
            )
