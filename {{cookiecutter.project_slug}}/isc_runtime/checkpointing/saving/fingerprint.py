"""Some numbers that tell the bytes of a tensor, computed where it is: on a GPU at the speed of its memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isc_runtime.ranks.weights import INTEGERS

PIECE = 2**20  # integers that are mixed at once: 8 MB, thrice
# Odd: then each step of the mixing has an inverse, and no two numbers become the same one. These are
# the constants of splitmix64 (https://prng.di.unimi.it/splitmix64.c), as signed numbers.
STEP, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def words_of(tensor: Tensor) -> Tensor:
    """The bytes of a contiguous tensor as integers, as large ones as fit: a view of one dimension."""
    place = tensor.storage_offset() * tensor.itemsize
    return tensor.view(-1).view(INTEGERS[math.gcd(8, tensor.nbytes, place)])


def fingerprint(tensor: Tensor) -> Tensor:
    """A number for each piece of a tensor, shape [pieces], int64; of another content it is another one.

    Each integer is mixed with its place, so that neither signs that turn nor rows that change places cancel
    out. A change that is not seen has a chance of 1 in 2^64: there is nobody who looks for one.

    Args:
        tensor: contiguous, on any device. Nothing is waited for.
    """
    words = words_of(tensor)
    places = torch.arange(min(PIECE, len(words)), device=tensor.device) * STEP
    sums = [_mixed(piece, places[: len(piece)]).sum() for piece in torch.split(words, PIECE)]
    return torch.stack(sums)


def _mixed(words: Tensor, places: Tensor) -> Tensor:
    mixed = words + places  # beyond 64 bits it wraps around
    mixed ^= (mixed >> 30) & (2**34 - 1)  # torch shifts in copies of the sign
    mixed *= FIRST
    mixed ^= (mixed >> 27) & (2**37 - 1)
    mixed *= SECOND
    return mixed
