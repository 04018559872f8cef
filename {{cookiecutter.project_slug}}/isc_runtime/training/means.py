"""Means over batches and ranks, as sums and counts: right whatever the sizes of batches are."""

from __future__ import annotations

import math
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
            means: by name; what a batch has nothing of, a rare class, it may leave out, on some ranks too.
            counts: False for a batch that another rank counts: nothing is added.

        Raises:
            IscError: a total or a count is not one number.
        """
        for name, mean in means.items():
            pair = torch.stack([self._exact(mean.total, name), self._exact(mean.count, name)])
            before = self._sums.get(name, torch.zeros_like(pair))
            self._sums[name] = before + pair if counts else before
            self._then[name] = mean.then

    def sums(self) -> dict[str, list[float]]:
        """What this rank has added, by name: sum and count."""
        return {name: pair.tolist() for name, pair in self._sums.items()}

    def go_on_from(self, sums: dict[str, list[float]]) -> None:
        """Adds what `sums` gave, here or on another rank."""
        for name, values in sums.items():
            pair = torch.stack([self._exact(value, name) for value in values])
            self._sums[name] = self._sums.get(name, torch.zeros_like(pair)) + pair

    def over_ranks(self) -> dict[str, float]:
        """The means over all that was added on all ranks, in order; NaN of nothing. A collective."""
        known = self._group.gather((tuple(self._sums), tuple(self._then)))
        names = list(dict.fromkeys(name for own, _ in known for name in own))
        if not names:
            return {}
        nothing = self._exact(0.0, "").expand(2)
        sums = torch.stack([self._sums.get(name, nothing) for name in names])
        totals = dict(zip(names, self._group.sum(sums).tolist(), strict=True))
        means = {name: _told(self._then[name], *totals[name]) for name in names if name in self._then}
        # Some do not know what is made of a mean that they have not seen since the start; perhaps nobody.
        if any(len(then) < len(names) for _, then in known):
            said = self._group.gather(means)
            known_means = {name: mean for own in reversed(said) for name, mean in own.items()}
            means = {name: known_means.get(name, _told(float, *totals[name])) for name in names}
        return means

    def _exact(self, value: float | Tensor, name: str) -> Tensor:
        """A number as a scalar on the device of this rank."""
        device = self._group.device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # a Mac's has no float64
        if isinstance(value, Tensor):
            exact = value.detach().to(device, dtype, non_blocking=device.type != "cpu")
        else:  # filled there: a number that is copied to a GPU is waited for
            exact = torch.full((), value, dtype=dtype, device=device)
        if exact.numel() != 1:
            raise IscError(
                f"Total and count of a Mean must be one number each, not of shape {list(exact.shape)}",
                f"{name!r} in model.py",
                'Sum over the batch: cross_entropy(..., reduction="sum"), or .sum().',
                ExitCode.USAGE,
            )
        return exact.reshape(())


def _told(then: Callable[[float], float], total: float, count: float) -> float:
    """What is made of a mean; a perplexity may be too large for a number."""
    if not count:
        return math.nan
    try:
        return then(total / count)
    except OverflowError:
        return math.inf
    except ValueError:  # of math.log and math.sqrt
        return math.nan
