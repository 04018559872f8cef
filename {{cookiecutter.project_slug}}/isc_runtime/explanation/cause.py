"""What a cause is, and how it is told from what only follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

OURS = "this project's own failures, made in its tests"


class Kind(str, Enum):
    """How much a sign in a log says about why the training ended."""

    CAUSE = "cause"  # it ends a training by itself
    CONSEQUENCE = "consequence"  # something happened elsewhere, and this follows from it
    NOTICE = "notice"  # the training goes on
    END = "end"  # an end that is no failure


@dataclass(frozen=True)
class Cause:
    """A reason why a training ends, or what else a log tells of it.

    Attributes:
        name: for machines.
        pattern: a regular expression that is searched in a line. Its named groups are facts; `rank` and
            `host` say where it happened, `absent` and `absent_host` name a rank that did not answer, and
            `master` is there when that is the one of node 0.
        meaning: what happened, as a sentence; `{group}` is replaced by that fact.
        to_do: what to do, as a sentence, with facts like `meaning`.
        kind: how much it says.
        seen: whether the tests of this project make this failure and read its log.
        source: where the pattern comes from.
    """

    name: str
    pattern: str
    meaning: str
    to_do: str
    kind: Kind = Kind.CAUSE
    seen: bool = True
    source: str = OURS

    @cached_property
    def expression(self) -> re.Pattern[str]:
        """The pattern, compiled."""
        return re.compile(self.pattern)


@dataclass(frozen=True)
class Event:
    """A place in a log that says something.

    Attributes:
        cause: what it is a sign of.
        text: the line, clean.
        file: the log.
        line: the line's number, from 1.
        time: seconds since 1970 by the clock of that node's log, of this line or one before, or None.
        facts: what the pattern found; groups that took no part are missing.
        code: the innermost line of the user's own code in a traceback: `model.py:12 in forward`.
        is_reason: whether it is the reason that all ranks agreed on.
        is_logged: whether it is a line of a logger, after which a program goes on.
        mark: how often the training had been seen to proceed before it.
    """

    cause: Cause
    text: str
    file: str
    line: int
    time: float | None
    facts: dict[str, str]
    code: str = ""
    is_reason: bool = False
    is_logged: bool = False
    mark: int = 0

    @property
    def rank(self) -> int | None:
        """Where it happened, if it says so."""
        return int(self.facts["rank"]) if self.facts.get("rank") else None

    @property
    def absent(self) -> int | None:
        """The rank that did not answer, if it says so."""
        if "master" in self.facts:
            return 0
        return int(self.facts["absent"]) if "absent" in self.facts else None

    @property
    def meaning(self) -> str:
        """What happened, with the facts."""
        return _filled(self.cause.meaning, self.facts)

    @property
    def to_do(self) -> str:
        """What to do, with the facts."""
        return _filled(self.cause.to_do, self.facts)


def _filled(text: str, facts: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: facts.get(match[1], ""), text)
