"""One start of the experiment on one node: how far it came, and what it said that matters."""

from __future__ import annotations

from dataclasses import dataclass, field

from isc_runtime.explanation.cause import Event, Kind

SURVIVED = 5  # the training was seen to proceed so often after an error: it did not end it


@dataclass(frozen=True)
class Exit:
    """How torchrun says that a rank of its node ended.

    Attributes:
        code: as a shell says it: 128 + n after signal n.
        rank: of all ranks, if it says so.
        event: where it is said.
    """

    code: int
    rank: int | None
    event: Event


@dataclass
class Attempt:
    """One start of the experiment on one node, as its log shows it. Its size does not grow with the log.

    Attributes:
        file: the log.
        line: where it begins there.
        last_line: the number of its last line.
        last_text: that line, clean.
        is_cut: whether the log ends within that line.
        began: seconds since 1970 of its first line with a time, or None.
        ended: of its last line with a time.
        began_at: the step it went on from; 0 for a new training; None if it does not say.
        began_line: where it says so.
        step: the last step that it tells of.
        epoch: the last epoch that it tells of.
        saving_step: of the save that was begun last.
        saved_step: of the last completed checkpoint.
        failed_saves: how many saves failed.
        marks: how often it was seen to proceed.
        is_checked: whether it begins with the first checks of launch.sh or train.py.
        is_masters: whether the master's lines are in it.
        is_on_isc: whether it says that it is on the ISC.
        events: the first and the last of each kind.
        counts: how many there were of each.
        exits: the first of each rank, a few at most.
    """

    file: str
    line: int
    last_line: int = 0
    last_text: str = ""
    is_cut: bool = False
    began: float | None = None
    ended: float | None = None
    began_at: int | None = None
    began_line: int = 0
    step: int | None = None
    epoch: int | None = None
    saving_step: int | None = None
    saved_step: int | None = None
    failed_saves: int = 0
    marks: int = 0
    is_checked: bool = False
    is_masters: bool = False
    is_on_isc: bool = False
    events: dict[tuple[str, bool], list[Event]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    exits: list[Exit] = field(default_factory=list)

    @property
    def is_awaited(self) -> bool:
        """Whether nothing is known yet but that a node that is not the master's checks its place."""
        is_quiet = not (self.events or self.exits or self.is_masters) and self.began_at is None
        return is_quiet and self.is_checked

    def add(self, event: Event) -> None:
        """Keeps an event if it is the first of its kind that was not survived, or the last."""
        key = (event.cause.name, event.is_reason)
        self.counts[event.cause.name] = self.counts.get(event.cause.name, 0) + 1
        kept = self.events.setdefault(key, [])
        if kept and event.cause.kind is not Kind.NOTICE and self.survived(kept[0]):
            kept.clear()
        self.events[key] = [*kept[:1], event]

    def survived(self, event: Event) -> bool:
        """Whether the training went on for long after this."""
        return self.marks - event.mark >= SURVIVED

    def all_events(self) -> list[Event]:
        """What was kept, in the order of the log."""
        return sorted((one for kept in self.events.values() for one in kept), key=lambda one: one.line)

    def stands(self, *kinds: Kind) -> list[Event]:
        """The events of these kinds that the training did not survive."""
        return [one for one in self.all_events() if one.cause.kind in kinds and not self.survived(one)]
