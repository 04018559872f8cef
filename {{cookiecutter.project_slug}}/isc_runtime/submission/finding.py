"""What a check of the project finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

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

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.hint}"
