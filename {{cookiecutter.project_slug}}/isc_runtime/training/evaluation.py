"""An evaluation, which an interruption does not begin anew: how far it is, is a part of the position."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from isc_runtime import rng
from isc_runtime.ranks.group import Group
from isc_runtime.training.answers import check_best, check_scores
from isc_runtime.training.batches import to_device
from isc_runtime.training.loaders import Data, held_out_batches
from isc_runtime.training.means import Best, Means, Totals


class Saves(Protocol):
    """What an evaluation needs of a Checkpointer."""

    def equalize(self) -> None: ...

    def is_due(self) -> bool: ...

    def save(self) -> None: ...

    def poll(self) -> None: ...


class Evaluation:
    """A part of a training's state: what of the held-out data was evaluated, and what that gave.

    Args:
        data: what data.py loads.
        batch_size: samples of a batch on each rank.
        group: the ranks.
    """

    def __init__(self, data: Data, batch_size: int, group: Group) -> None:
        self._data = data
        self._batch_size = batch_size
        self._group = group
        self._samples = 0  # of the held-out data, from the first one on, on all ranks together
        self._totals = Totals(group)

    @property
    def is_under_way(self) -> bool:
        """Whether some of the held-out data were evaluated, and it has not ended."""
        return self._samples > 0

    def __str__(self) -> str:
        """How far it is, for a line of the log; nothing if none is under way."""
        length = len(self._data.held_out)  # type: ignore[arg-type]
        return f", evaluation at sample {self._samples} of {length}" if self.is_under_way else ""

    @torch.no_grad()
    def try_out(self, scores: Callable[[Any], Means], best: Best) -> None:
        """Looks at what the first batch of the held-out data gives: what would end the first evaluation,
        hours later, ends the start. Nothing is compiled for it, and no random number generator notices.

        All ranks call it: in each call of the model the shards of a sharded one come together.

        Args:
            scores: of a batch that is on the device.
            best: says which of them decides what is best.

        Raises:
            IscError: they are no scores, or that one is not among them.
        """
        generators = rng.capture(self._group.device)
        batch, _ = next(held_out_batches(self._data, self._batch_size, self._group))
        # To ask for it takes seconds of imports, which are not spent where nothing is compiled.
        is_compiled = "torch._dynamo" in sys.modules
        with torch.compiler.set_stance("force_eager") if is_compiled else contextlib.nullcontext():
            means = scores(to_device(batch, self._group.device))
        rng.restore(generators, self._group.device)
        check_scores(means)
        check_best(best, means)

    def batches(self, saves: Saves) -> Iterator[tuple[Any, bool]]:
        """This rank's part of what is left of the held-out data; saves between two batches when that is due.

        All ranks evaluate what a checkpoint would hold: their buffers are made those of the first one.

        Args:
            saves: a Checkpointer.

        Yields:
            A batch, and whether it counts: False if another rank has its samples, too.
        """
        saves.equalize()
        length = len(self._data.held_out)  # type: ignore[arg-type]
        # After the last batch only its end is left, which needs to know what a batch gives.
        begin = self._samples if self._samples < length else length - 1
        for batch, counts in held_out_batches(self._data, self._batch_size, self._group, begin):
            yield batch, counts and self._samples < length
            self._samples = min(length, self._samples + self._batch_size * self._group.world_size)
            if self._samples < length and saves.is_due():
                saves.save()
            saves.poll()

    def add(self, means: Means, counts: bool = True) -> None:
        """Adds what a batch gave; as `Totals.add`. Raises IscError: that are no Means."""
        check_scores(means)
        self._totals.add(means, counts)

    def end(self) -> dict[str, float]:
        """The means over all ranks; the next evaluation begins anew. A collective."""
        means = self._totals.over_ranks()
        self._samples, self._totals = 0, Totals(self._group)
        return means

    def state_dict(self) -> dict[str, Any]:
        """How far it is, on all ranks alike; nothing if none is under way."""
        if not self.is_under_way:
            return {}
        return {"samples": self._samples, "length": len(self._data.held_out)}  # type: ignore[arg-type]

    def rank_state(self) -> dict[str, list[float]]:
        """What this rank has summed up; a checkpoint keeps that of all ranks, in order, as `ranks`."""
        return self._totals.sums() if self.is_under_way else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there: as if nothing had happened, or on another number of ranks with their sum."""
        if state.get("length") != len(self._data.held_out):  # type: ignore[arg-type]  # of other data
            state = {}
        self._samples, self._totals = state.get("samples", 0), Totals(self._group)
        ranks = state.get("ranks", [])
        if len(ranks) == self._group.world_size:
            self._totals.go_on_from(ranks[self._group.rank])
        elif ranks:
            weight = float(self._group.is_master)  # one rank has it all
            for other in ranks:
                self._totals.go_on_from(
                    {name: [weight * value for value in pair] for name, pair in other.items()}
                )
