"""Where in the data a training is: what a resume goes on from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch: the current epoch, counted from 0.
        batch: batches (that is, optimizer steps) done in it.
        samples: samples of the epoch that were consumed, by all ranks together. This and not `batch` is
            where the next one goes on, because it means the same on another number of ranks.
        step: batches done since the start of the training.
    """

    epoch: int = 0
    batch: int = 0
    samples: int = 0
    step: int = 0


class Position(ABC):
    """Where in the data a training is: the part of its state that says how far it is.

    Args:
        batch_size: samples of a batch on one rank.
        seed: together with the epoch it determines all that is random in the data.
        rank: of this process.
        world_size: number of ranks.
    """

    def __init__(self, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.progress = Progress()

    @property
    @abstractmethod
    def is_epoch_done(self) -> bool:
        """Whether nothing is left of the epoch."""

    @property
    @abstractmethod
    def own_samples(self) -> int:
        """Samples of the batch that is trained on now, on each rank: on all of them as many."""

    @abstractmethod
    def check_epoch_is_done(self) -> None:
        """To be called when the loader has no more batches. Raises IscError: there should be more."""

    @abstractmethod
    def advance(self) -> None:
        """Counts the batch that was just trained on, on all ranks."""

    @property
    def epochs_done(self) -> float:
        """Epochs trained so far, with the part of the present one as far as it is known."""
        return self.progress.epoch

    @abstractmethod
    def batches_left(self, epochs: int) -> float:
        """Batches that are left of a training of so many epochs; infinity if that is not known."""

    def share(self, consumed: int) -> range:
        """Which of the samples that all ranks consume in a batch are this rank's; more than there are, to
        make up the number."""
        each = -(-consumed // self.world_size)
        return range(self.rank * each, (self.rank + 1) * each)

    def _count(self, consumed: int) -> None:
        self.progress.samples += consumed
        self.progress.batch += 1
        self.progress.step += 1

    def next_epoch(self) -> None:
        """Begins the next epoch at its first sample."""
        self.progress = Progress(epoch=self.progress.epoch + 1, step=self.progress.step)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps; the number of ranks is not part of it."""
        return {**vars(self.progress), "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from there, in the order that the checkpoint's seed gives."""
        state = dict(state)
        self.seed = state.pop("seed")
        self.progress = Progress(**state)
