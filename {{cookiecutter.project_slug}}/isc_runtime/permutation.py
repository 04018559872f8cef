"""Orders and draws of samples as pure functions of seed, epoch and position, at the same cost anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isc_runtime.errors import ExitCode, IscError

ROUNDS = 6  # of the Feistel network; 4 make a strong pseudo-random permutation (Luby and Rackoff, 1988)


def permute(positions: NDArray[np.uint64], length: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Where each of `positions` in the epoch's order lies in the dataset.

    A Feistel network over the next larger power of four, walked until it falls inside the dataset again
    (Black and Rogaway, 2002: fewer than four walks on average).

    Args:
        positions: of shape (n,), each below `length`.
        length: samples in the dataset.
        seed: the run's seed.
        epoch: the epoch, counted from 0.

    Returns:
        The indices, of shape (n,): for all positions of one epoch together each index exactly once.
    """
    half_bits = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    result = positions.astype(np.uint64)
    outside = np.ones(len(result), dtype=np.bool_)
    while outside.any():
        left, right = result[outside] >> half_bits, result[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        result[outside] = (left << half_bits) | right
        outside = result >= length
    return result


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads every bit over all others (the finaliser of SplitMix64: Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


class Draws:
    """Samples drawn with replacement, in proportion to weights.

    Args:
        weights: of each sample.
        length: how many samples there are.

    Raises:
        IscError: the weights are not so many numbers, or all are 0.
    """

    def __init__(self, weights: Sequence[float], length: int) -> None:
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != (length,) or not np.isfinite(given).all() or given.min() < 0 or given.sum() <= 0:
            raise IscError(
                f"The weights must be {length} numbers, one for each sample, not negative and not all 0",
                f"weights of shape {given.shape}",
                "Correct them in data.py.",
                ExitCode.DATA,
            )
        self._sums = np.cumsum(given) / given.sum()

    def at(self, positions: NDArray[np.uint64], seed: int, epoch: int) -> NDArray[np.int64]:
        """The samples that are drawn at these positions of an epoch."""
        (key,) = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
        uniform = _mix(_mix(positions ^ key) + key).astype(np.float64) / 2.0**64
        found: NDArray[np.int64] = np.searchsorted(self._sums, uniform, side="right")
        return np.minimum(found, len(self._sums) - 1)
