"""What a check of the project finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isc_runtime.printable import printable

Severity = Literal["error", "warning"]
LONGEST = 500  # characters of each part that is shown


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    What it quotes from the project's files can be anything. So what a terminal would obey is replaced by an
    escape (`\\x1b`), also what reorders a line, and long parts are cut.

    Attributes:
        where: the file, with the line if there is one: `experiment.isc:12`.
        what: what is wrong, without a full stop.
        hint: what to do, as a sentence.
        severity: an error makes a submission fail or go wrong; a warning is for a person to judge.
    """

    where: str
    what: str
    hint: str
    severity: Severity = "error"

    def __post_init__(self) -> None:
        for name in ("where", "what", "hint"):
            object.__setattr__(self, name, _shown(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.hint}"


def _shown(text: str) -> str:
    """In one line that is not too long."""
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")
