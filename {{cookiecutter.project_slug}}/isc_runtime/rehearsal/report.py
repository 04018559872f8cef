"""What a rehearsal says: live, as a table with a verdict, and as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from isc_runtime.rehearsal.cycle import COMPLETE, Cycle
from isc_runtime.rehearsal.verdict import Verdict

WIDTH = 120  # of a table in a log file
HEADINGS = (
    ("cycle", "left"),
    ("ranks", "right"),
    ("steps", "right"),
    ("resumed from", "right"),
    ("steps lost", "right"),
    ("shipped", "right"),
    ("deleted", "right"),
    ("first step", "right"),
    ("ended", "left"),
)


class Screen:
    """Says what happens: on a terminal with a line that moves, elsewhere in plain lines.

    Args:
        to_stderr: whether standard output belongs to something else.
    """

    def __init__(self, to_stderr: bool) -> None:
        self.console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console = Console(stderr=to_stderr, highlight=False, soft_wrap=True, width=WIDTH)
        self._status: Status | None = None
        self._what = ""

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Says what is done while the block lasts."""
        self._what = what
        if not self.console.is_terminal:
            self.say(what)
            yield
            return
        with self.console.status(escape(what)) as self._status:
            yield
        self._status = None

    def detail(self, text: str) -> None:
        """How far that has come."""
        if self._status is not None:
            self._status.update(escape(f"{self._what}: {text}"))

    def say(self, text: str) -> None:
        """A line that stays."""
        # What it quotes may hold anything, and not every terminal can show it.
        encoding = self.console.encoding
        self.console.print(escape(text.encode(encoding, "backslashreplace").decode(encoding)))

    def show(self, verdict: Verdict) -> None:
        """The table, the findings, and the verdict."""
        table = Table(title="Rehearsal")
        for heading, side in HEADINGS:
            table.add_column(heading, justify=side)  # type: ignore[arg-type]
        for cycle in verdict.cycles:
            table.add_row(*map(escape, row(cycle, verdict.cycles)))
        if verdict.comparison is not None:
            table.add_row(*map(escape, row(verdict.comparison.reference, [])))
        if verdict.cycles:
            self.console.print(table, soft_wrap=False)
        for line in verdict.pace.words():
            self.say(line)
        for finding in verdict.findings:
            self.say(f"{finding.severity.upper()}: {finding}")
        self.say(conclusion(verdict))


def row(cycle: Cycle, cycles: list[Cycle]) -> list[str]:
    """A row of the table.

    Args:
        cycle: the cycle.
        cycles: all of them: the next one tells what was lost in this one.
    """
    facts = facts_of(cycle, cycles)
    steps = f"{facts['first_step']}-{facts['last_step']}" if facts["last_step"] is not None else "-"
    first = facts["seconds_to_first_step"]
    ranks = f"{cycle.nodes} x {cycle.procs}"
    cells = (facts["resumed_from"], facts["steps_lost"])
    return [
        *(cycle.name.removeprefix("cycle "), ranks, steps),
        *("-" if cell is None else str(cell) for cell in cells),
        *(str(len(facts["shipped"])), str(len(facts["deleted"]))),
        "-" if first is None else f"{first:.1f} s",
        facts["ended"],
    ]


def facts_of(cycle: Cycle, cycles: list[Cycle]) -> dict[str, Any]:
    """What is to be known of a cycle; the names are those of the JSON."""
    began, last = cycle.trace.started_at_step, cycle.trace.last_step
    next_began = next(
        (after.trace.started_at_step for at, after in itertools.pairwise(cycles) if at is cycle),
        None,
    )
    lost = last - next_began if last is not None and next_began is not None else None
    if cycle.end == COMPLETE:
        lost = 0
    codes = sorted({str(code) for code in cycle.codes if code is not None})
    first, saved = cycle.first_step_seconds, cycle.first_save_seconds
    return {
        "name": cycle.name,
        "nodes": cycle.nodes,
        "ranks": cycle.ranks,
        "first_step": None if began is None else began + 1,
        "last_step": last,
        "resumed_from": began or None,
        "steps_lost": None if lost is None else max(0, lost),
        "shipped": list(cycle.synced.shipped),
        "deleted": [*cycle.deleted_within, *cycle.synced.deleted],
        "syncs_within": cycle.syncs,
        "seconds_to_first_step": None if first is None else round(first, 2),
        "seconds_to_first_save": None if saved is None else round(saved, 2),
        "seconds_from_sigterm_to_end": None if cycle.stop_seconds is None else round(cycle.stop_seconds, 2),
        "ended": f"{cycle.end}, exit {'/'.join(codes)}" if codes else cycle.end,
        "logs": [str(log) for log in cycle.logs],
    }


def conclusion(verdict: Verdict) -> str:
    """The last line."""
    caveat = " With the stand-in for cycling_utils, not with the real one." if verdict.stand_in else ""
    if verdict.is_ready:
        return f"Ready to submit: {_proof(verdict)}.{caveat}"
    first, *others = verdict.errors
    more = f" And {len(others)} more." if others else ""
    return f"Not ready to submit: {first.where}: {first.what}.{more}{caveat}"


def _proof(verdict: Verdict) -> str:
    times = f"interrupted {verdict.interruptions} time{'s' * (verdict.interruptions != 1)}"
    comparison = verdict.comparison
    if comparison is None:
        return f"{times}, on other numbers of ranks, and every sample of an epoch was seen"
    which = "final weights" if comparison.is_final else f"weights of step {comparison.step}"
    return f"{times}, its {which} are bit for bit those of an uninterrupted run"


def as_json(verdict: Verdict) -> str:
    """The verdict for machines."""
    comparison = verdict.comparison
    content = {
        "fit": verdict.is_ready,
        "conclusion": conclusion(verdict),
        "findings": [asdict(finding) for finding in verdict.findings],
        "notes": verdict.notes,
        "stand_in": verdict.stand_in,
        "project": verdict.project,
        "plan": asdict(verdict.plan),
        "cycles": [facts_of(cycle, verdict.cycles) for cycle in verdict.cycles],
        "pace": asdict(verdict.pace)
        | {
            "longest_batch": verdict.pace.longest_batch,
            "largest_checkpoint": verdict.pace.largest_checkpoint,
        },
        "reference": None if comparison is None else facts_of(comparison.reference, []),
        "compared": None
        if comparison is None
        else {
            "step": comparison.step,
            "final": comparison.is_final,
            "identical": comparison.step is not None and not comparison.differences,
            "differences": comparison.differences,
            "repeatable": comparison.is_repeatable,
        },
        "folder": str(verdict.folder),
    }
    return json.dumps(content, indent=1)


def print_json(verdict: Verdict) -> None:
    """The verdict to standard output."""
    sys.stdout.write(as_json(verdict) + "\n")
