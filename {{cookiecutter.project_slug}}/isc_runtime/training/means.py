"""Means over batches and ranks, as sums and counts: right whatever the sizes of batches are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group


@dataclass(frozen=True)
class Mean:
    """A sum over the samples of a batch, or over its tokens, and how many they are.

    Attributes:
        total: the sum, a scalar.
        count: of how many.
        then: what is made of the mean for people: `math.exp` makes a perplexity of a loss.
    """

    total: Tensor
    count: int | Tensor
    then: Callable[[float], float] = float


Means = dict[str, Mean]  # by name: what the functions in model.py return


@dataclass(frozen=True)
class Best:
    """Which mean of the evaluation says what is best.

    Attributes:
        name: of the mean.
        more_is_better: True for an accuracy, False for a loss.
    """

    name: str
    more_is_better: bool

    @property
    def worst(self) -> float:
        """What everything is better than."""
        return float("-inf") if self.more_is_better else float("inf")

    def better_of(self, best: float, means: dict[str, float]) -> float:
        """The best value so far, or the one among these means if it is better.

        Raises:
            IscError: there is none of this name.
        """
        if self.name not in means:
            raise IscError(
                f"The evaluation has no {self.name!r}, which is to say what is best",
                "BEST and batch_scores in model.py",
                f"Name one of what batch_scores returns: {', '.join(means)}.",
                ExitCode.USAGE,
            )
        value = means[self.name]
        return value if (value > best if self.more_is_better else value < best) else best


class Totals:
    """Sums and counts over batches, on one rank until they are asked for.

    Args:
        group: the ranks.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._sums: dict[str, Tensor] = {}  # each (sum, count), on the device
        self._then: dict[str, Callable[[float], float]] = {}

    def add(self, means: Means, counts: bool = True) -> None:
        """Adds what a batch gave.

        Args:
            means: by name; all ranks have the same names.
            counts: False for a batch that another rank counts: nothing is added.
        """
        for name, mean in means.items():
            pair = torch.stack([_exact(mean.total, mean.total), _exact(mean.count, mean.total)])
            before = self._sums.get(name, torch.zeros_like(pair))
            self._sums[name] = before + pair if counts else before
            self._then[name] = mean.then

    def sums(self) -> dict[str, list[float]]:
        """What this rank has added, by name: sum and count."""
        return {name: pair.tolist() for name, pair in self._sums.items()}

    def go_on_from(self, sums: dict[str, list[float]]) -> None:
        """Adds what `sums` gave, here or on another rank."""
        like = torch.zeros((), device=self._group.device)
        for name, values in sums.items():
            pair = torch.stack([_exact(value, like) for value in values])
            self._sums[name] = self._sums.get(name, torch.zeros_like(pair)) + pair

    def over_ranks(self) -> dict[str, float]:
        """The means over all that was added on all ranks, in order; NaN of nothing. A collective."""
        if not self._sums:
            return {}
        summed = self._group.sum(torch.stack(list(self._sums.values()))).tolist()
        return {
            name: self._then[name](total / count) if count else float("nan")
            for name, (total, count) in zip(self._sums, summed, strict=True)
        }


def _exact(value: float | Tensor, like: Tensor) -> Tensor:
    dtype = torch.float32 if like.device.type == "mps" else torch.float64  # a Mac's GPU has no float64
    return torch.as_tensor(value, dtype=dtype, device=like.device).detach()
