"""What a rehearsal will do: drawn from its seed, before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

How = Literal["kill", "term"]

CYCLE_SECONDS = 90.0  # a cycle of the ISC in cycle mode: https://docs.strongcompute.com
LAST_SECONDS = 30.0  # how long the last cycle may go on when nothing else is said
LEAST_STEPS = 5  # drawn from fewer, an interruption would always fall close to a save


@dataclass(frozen=True)
class CyclePlan:
    """One cycle.

    Attributes:
        number: counted from 1.
        nodes: how many nodes.
        procs: ranks on each of them.
        how: SIGKILL to all processes, or SIGTERM to each node's command. The last cycle is ended, too, if
            the training is not complete by then, always by SIGKILL: what it saved before is compared.
        share: where in its time the interruption falls, from 0 to 1.
        is_last: whether it goes on to the end of the training, if that comes soon.
    """

    number: int
    nodes: int
    procs: int
    how: How
    share: float
    is_last: bool

    @property
    def ranks(self) -> int:
        return self.nodes * self.procs


@dataclass(frozen=True)
class Plan:
    """A rehearsal.

    Attributes:
        nodes: how many nodes.
        procs: ranks on each of them.
        cycles: how many cycles, the last one included.
        cycle_seconds: the longest time from the first step of a cycle to its interruption, which falls into
            the second half of it. None: it falls after the cycle's first checkpoint, within once more the
            steps that this took, and at the latest after CYCLE_SECONDS.
        interrupt: how cycles are interrupted.
        seed: of all that is drawn.
        resize: whether the number of ranks changes from cycle to cycle.
        move: whether each cycle finds the artifact under another name.
        sync_seconds: how often the artifact is synced within a cycle; None is never.
        hang_seconds: the longest time from one step to the next.
        start_seconds: the longest time to the first step.
        grace_seconds: the time from SIGTERM to the end.
    """

    nodes: int = 2
    procs: int = 1
    cycles: int = 3
    cycle_seconds: float | None = None
    interrupt: Literal["kill", "term", "mixed"] = "kill"
    seed: int = 0
    resize: bool = False
    move: bool = False
    sync_seconds: float | None = None
    hang_seconds: float = 60.0
    start_seconds: float = 300.0
    grace_seconds: float = 30.0

    def draw(self) -> list[CyclePlan]:
        """The cycles: the same for the same seed."""
        drawn = random.Random(self.seed)
        planned: list[CyclePlan] = []
        for number in range(1, self.cycles + 1):
            how: How = drawn.choice(("kill", "term")) if self.interrupt == "mixed" else self.interrupt
            nodes, procs = self.nodes, self.procs
            if self.resize and planned:
                nodes, procs = drawn.choice(self._other_sizes(planned[-1].ranks))
            is_last = number == self.cycles
            planned.append(CyclePlan(number, nodes, procs, how, drawn.random(), is_last))
        return planned

    def _other_sizes(self, ranks: int) -> list[tuple[int, int]]:
        """Nodes and ranks on each, no more than asked for, that make another number of ranks."""
        sizes = [(nodes, procs) for nodes in range(1, self.nodes + 1) for procs in range(1, self.procs + 1)]
        return [size for size in sizes if size[0] * size[1] != ranks] or [(2, 1)]

    def seconds(self, cycle: CyclePlan) -> float:
        """How long after its first step a cycle ends, unless something else ends it before."""
        if cycle.is_last:
            return self.cycle_seconds or LAST_SECONDS
        if self.cycle_seconds is None:
            return CYCLE_SECONDS
        return self.cycle_seconds * (1 + cycle.share) / 2

    def step(self, cycle: CyclePlan, began: int, saved: int) -> int | None:
        """The step at which a cycle is interrupted, counted in steps: how fast they are makes no difference.

        Args:
            cycle: one that `draw` gave.
            began: the step at which it began.
            saved: the step of the first checkpoint that it completed.

        Returns:
            None if time alone ends it.
        """
        if cycle.is_last or self.cycle_seconds is not None:
            return None
        return saved + 1 + round(cycle.share * max(saved - began, LEAST_STEPS))
