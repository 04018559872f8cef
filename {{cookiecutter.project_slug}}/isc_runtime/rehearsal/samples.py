"""Which samples the interrupted training was trained on: what counts is what was not lost again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from isc_runtime.rehearsal.trace import Trace


@dataclass(frozen=True)
class Taken:
    """A step, as all ranks together took it.

    Attributes:
        epoch: counted from 0.
        samples: those of each rank, in the order of ranks.
    """

    epoch: int
    samples: tuple[tuple[Any, ...], ...]


def path_of(traces: Iterable[Trace]) -> dict[int, Taken]:
    """The steps that led to the last one, by number: what a later cycle repeated counts as it was repeated.

    Args:
        traces: of the cycles, in their order.
    """
    path: dict[int, Taken] = {}
    for trace in traces:
        if not trace.ranks or any(not rank.steps for rank in trace.ranks.values()):
            continue
        ranks = [trace.ranks[number] for number in sorted(trace.ranks)]
        common = set.intersection(*(set(rank.steps) for rank in ranks))
        if not common:
            continue
        path = {number: taken for number, taken in path.items() if number < min(common)}
        for number in sorted(common):
            steps = [rank.steps[number] for rank in ranks]
            path[number] = Taken(steps[0].epoch, tuple(step.samples for step in steps))
    return path


def first_difference(path: dict[int, Taken], reference: dict[int, Taken]) -> int | None:
    """The first step that was taken on other samples than in the uninterrupted run; None if there is none."""
    steps = sorted(set(path) & set(reference))
    return next((step for step in steps if path[step].samples != reference[step].samples), None)


def again_and_never(path: dict[int, Taken], reference: dict[int, Taken], epoch: int) -> tuple[int, int]:
    """How many samples of an epoch were seen again that should not have been, and how many not at all.

    Only steps that both have are counted.
    """
    common = set(path) & set(reference)
    seen = _count(path[step] for step in common if path[step].epoch == epoch)
    expected = _count(reference[step] for step in common if reference[step].epoch == epoch)
    return (seen - expected).total(), (expected - seen).total()


@dataclass(frozen=True)
class EpochCount:
    """How often the samples of an epoch were seen.

    Attributes:
        epoch: counted from 0.
        missed: samples that were not seen.
        repeated: how many were seen beyond the first time.
    """

    epoch: int
    missed: int
    repeated: int


def count_epochs(path: dict[int, Taken], lengths: Sequence[int], is_complete: bool) -> list[EpochCount]:
    """Counts the samples of each epoch that is over.

    Args:
        path: as `path_of` gives it.
        lengths: samples in the data, as the ranks tell it; without any, what was ever seen is all there is.
        is_complete: whether the last epoch is over, too.
    """
    length = max(lengths, default=len(_count(path.values())))
    epochs = sorted({taken.epoch for taken in path.values()})
    counts = []
    for epoch in epochs if is_complete else epochs[:-1]:
        seen = _count(taken for taken in path.values() if taken.epoch == epoch)
        counts.append(EpochCount(epoch, max(0, length - len(seen)), seen.total() - len(seen)))
    return counts


def same_order(path: dict[int, Taken]) -> tuple[int, int] | None:
    """Two whole epochs that rank 0 saw in the same order; None if there are none."""
    orders: dict[tuple[Any, ...], int] = {}
    for epoch in sorted({taken.epoch for taken in path.values()})[:-1]:
        order = tuple(
            sample
            for step in sorted(path)
            if path[step].epoch == epoch
            for sample in (path[step].samples or ((),))[0]
        )
        if len(set(order)) > 1 and order in orders:
            return orders[order], epoch
        orders.setdefault(order, epoch)
    return None


def are_known(path: dict[int, Taken]) -> bool:
    """Whether the samples were seen at all: a DataLoader gave them, and it knew their indices."""
    return any(sample is not None for taken in path.values() for sample in _flat(taken.samples))


def _count(steps: Iterable[Taken]) -> Counter[Any]:
    return Counter(sample for taken in steps for sample in _flat(taken.samples))


def _flat(samples: Sequence[tuple[Any, ...]]) -> Iterable[Any]:
    return (sample for of_rank in samples for sample in of_rank)
