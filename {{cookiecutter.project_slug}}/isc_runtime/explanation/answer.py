"""What is said about the logs of an experiment, before it is put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from isc_runtime.explanation.attempt import Attempt
from isc_runtime.explanation.cause import Cause, Event, Kind

Outcome = Literal["failed", "interrupted", "stopped", "completed", "unknown"]

SILENT = Cause(
    "silent-end",
    "",
    "The log ends without an error: nothing that ran there said why.",
    "If the ISC interrupted it (compute_mode cycle does every 90 seconds), it comes back by itself: there is "
    "nothing to do. If the experiment failed, look for what ends a whole node without a word: its memory, "
    "its machine.",
    Kind.END,
)
UNKNOWN = Cause(
    "unknown",
    "",
    "Nothing in these logs is known: no training that began, and no error.",
    "Are they the logs of an experiment? Their last lines are below.",
)


@dataclass(frozen=True)
class Node:
    """The log of a node, or several of its logs one after another.

    Attributes:
        number: of the node, if the name of the log says it.
        attempts: the last ones, oldest first.
        starts: how many there were.
        resumes: how many of them went on from a checkpoint.
    """

    number: int | None
    attempts: Sequence[Attempt]
    starts: int
    resumes: int

    @property
    def name(self) -> str:
        """As it is called in what is said."""
        return f"node {self.number}" if self.number is not None else self.attempts[-1].file


@dataclass
class Explanation:
    """What the logs say.

    Attributes:
        outcome: how the last attempt ended.
        cause: why.
        first: the place that shows it, or None when nothing does.
        rank: the rank that was first, if it is known.
        host: its machine, if it is known.
        node: the node that was first, if it is known.
        code: the exit code that goes with it.
        also: another place that shows more of it: the traceback of the same error.
        last: the last attempt of each node.
        nodes: all logs.
        notes: what else a reader should know.
    """

    outcome: Outcome
    cause: Cause
    first: Event | None
    rank: int | None = None
    host: str = ""
    node: Node | None = None
    code: int | None = None
    also: Event | None = None
    last: list[tuple[Node, Attempt]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def master(self) -> Attempt:
        """The attempt that tells how far the training is."""
        attempts = [attempt for _, attempt in self.last]
        return max(attempts, key=lambda one: (one.is_masters, one.marks))

    @property
    def saved_step(self) -> int | None:
        """The newest checkpoint that is known to be complete: what a later attempt went on from was it."""
        known = None
        for attempt in (one for node in self.nodes for one in node.attempts if one.is_masters):
            known = attempt.began_at if attempt.began_at is not None else known
            known = attempt.saved_step if attempt.saved_step is not None else known
        return known or None
