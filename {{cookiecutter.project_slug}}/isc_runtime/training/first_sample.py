"""The first sample of a stream, which is the same each time it is read: on all ranks, and after a resume."""

from __future__ import annotations

import contextlib
import itertools
import logging
import zlib
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.inside import PLAIN
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import as_bytes
from isc_runtime.tree import leaves

MOST_LEAVES, MOST_VALUES = 1000, 2**16  # of a sample, of a tensor
UNKNOWN = 0  # the mark of a sample that nobody has looked at

logger = logging.getLogger("train")


class Opening(NamedTuple):
    """Where the reading of a stream has begun.

    Attributes:
        begin: the place in the stream.
        mark: of the sample there.
    """

    begin: int
    mark: int


def mark_of(sample: Any) -> int:
    """What tells samples apart: of text, numbers and tensors. What is of another type is like any other."""
    mark = UNKNOWN
    for _, leaf in itertools.islice(leaves(sample), MOST_LEAVES):
        mark = zlib.crc32(_bytes_of(leaf), mark)
    return mark


def _bytes_of(leaf: Any) -> bytes:
    with contextlib.suppress(Exception):  # of tensors of odd kinds
        if isinstance(leaf, Tensor):
            return as_bytes(leaf.detach().reshape(-1)[:MOST_VALUES].cpu()).numpy().tobytes()
        if isinstance(leaf, np.ndarray) and not leaf.dtype.hasobject:
            return leaf.reshape(-1)[:MOST_VALUES].tobytes()
        if isinstance(leaf, PLAIN):
            return repr(leaf).encode()
    return type(leaf).__qualname__.encode()


def is_same_on_ranks(opening: Opening | None, group: Group) -> bool:
    """Whether all ranks begin with the same sample. A collective.

    Args:
        opening: of this rank's stream; None if that has ended.
        group: the ranks.

    Raises:
        IscError: on some ranks there is none, so that the others would wait for them.
    """
    openings = group.gather(opening)
    ended = [rank for rank, one in enumerate(openings) if one is None]
    if ended and len(ended) < len(openings):
        raise IscError(
            f"The stream has ended on rank {ended[0]}, and not on all ranks",
            "load_data in data.py, training",
            "Let it yield the same samples in the same order on each rank, and do not divide it: each rank "
            "reads all of it, and gets its share.",
            ExitCode.DATA,
        )
    return len(set(openings)) == 1


def warn(what: str) -> None:
    """Says that a stream is another one, and what comes of that.

    Args:
        what: how that was seen.
    """
    logger.warning(
        "[DATA] The first sample of the stream is not the same %s. If it is another one, and not only drawn "
        "otherwise, some samples come twice, and others not at all. Let the stream yield the same ones in "
        "the same order each time: sort its files, do not divide it by rank (each gets its share of all), "
        "and draw from torch's, NumPy's or Python's own generators.",
        what,
    )
