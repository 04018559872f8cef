"""What happened: the last attempt on all nodes, the rank that was first, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isc_runtime.errors import ExitCode
from isc_runtime.explanation.answer import SILENT, UNKNOWN, Explanation, Node
from isc_runtime.explanation.attempt import Attempt, Exit
from isc_runtime.explanation.cause import Event, Kind
from isc_runtime.explanation.classification import classify_exit
from isc_runtime.explanation.notes import notes
from isc_runtime.explanation.own import FRUITLESS_START

# Seconds: a node whose last attempt ended so long before another's began took no part in that one.
OLDER = 60.0
OWN_ERROR, HANG, ENDED_WITH_0 = "own-error", "hang", "ended-with-0"
COMPLETED = ("completed", ENDED_WITH_0)
AGREED, SAID, EXITED, FOLLOWED, FOLLOWED_EXIT, LOGGED = range(6)  # how much a sign says; the first says most

Last = list[tuple[Node, Attempt]]


@dataclass(frozen=True)
class Sign:
    """A sign of a failure.

    Attributes:
        strength: one of the above.
        node: in whose log it is.
        event: what it is.
        exit: the end of a rank that torchrun tells of, if it is one.
    """

    strength: int
    node: Node
    event: Event
    exit: Exit | None = None

    @property
    def order(self) -> tuple[int, bool, float, int, int]:
        """The strongest first, of them our own messages, then by time; without a time by node and line."""
        time = self.event.time if self.event.time is not None else float("inf")
        is_foreign = self.strength == FOLLOWED and "said" not in self.event.facts
        return (self.strength, is_foreign, time, self.node.number or 0, self.event.line)


def explain(nodes: list[Node]) -> Explanation:
    """What happened in the last attempt. Each node has at least one."""
    last = _last_attempts(nodes)
    signs = [sign for node, attempt in last for sign in _signs(node, attempt)]
    signs = sorted(_without_survived(signs, last), key=lambda one: one.order)
    has_ended = any(attempt.stands(Kind.END) for _, attempt in last)
    if not signs or (signs[0].strength >= FOLLOWED and (has_ended or _is_interrupted(last, signs))):
        found = _end(last)
    elif signs[0].strength in (EXITED, FOLLOWED_EXIT):
        found = _by_exit(signs)
    elif signs[0].strength == FOLLOWED:
        found = _unseen(signs)
    else:
        found = _because(signs[0], last)
    found.nodes, found.last = nodes, last
    found.notes = [*notes(found)]
    return found


def _without_survived(signs: list[Sign], last: Last) -> list[Sign]:
    """Signs, without those after which the training came to its end all the same."""
    ends = [event for _, attempt in last for event in attempt.stands(Kind.END)]
    completed = [event for event in ends if event.cause.name in COMPLETED]
    if any(sign.exit for sign in signs) or not completed:
        return signs
    if any(event.cause.name == ENDED_WITH_0 for event in ends):
        return []
    return [sign for sign in signs if not _is_before(sign.event, completed[-1])]


def _is_before(event: Event, end: Event) -> bool:
    if event.file == end.file:
        return event.line < end.line
    return event.time is None or end.time is None or event.time <= end.time


def _is_interrupted(last: Last, signs: list[Sign]) -> bool:
    """Whether a node ended without a word, and the others, that missed it, before torchrun could say so."""
    trained = {id(node) for node, one in last if one.marks or one.is_masters or one.is_checked}
    silent = trained - {id(sign.node) for sign in signs}
    return bool(silent) and not any(sign.exit for sign in signs)


def _last_attempts(nodes: list[Node]) -> Last:
    """Of each node, but for those that were not there in the last one: their clocks tell."""
    last = [(node, node.attempts[-1]) for node in nodes]
    newest = max((one.began for _, one in last if one.began is not None), default=None)
    if newest is None:
        return last
    return [(node, one) for node, one in last if one.ended is None or one.ended >= newest - OLDER]


def _signs(node: Node, attempt: Attempt) -> Iterator[Sign]:
    for event in attempt.stands(Kind.CAUSE, Kind.CONSEQUENCE):
        is_cause = event.cause.kind is Kind.CAUSE and not _is_echo(event, attempt)
        if event.is_logged:
            yield Sign(LOGGED, node, event)
        else:
            yield Sign((AGREED if event.is_reason else SAID) if is_cause else FOLLOWED, node, event)
    for ended in attempt.exits:
        kind = ended.event.cause.kind
        if kind is not Kind.END:
            yield Sign(EXITED if kind is Kind.CAUSE else FOLLOWED_EXIT, node, ended.event, ended)


def _is_echo(event: Event, attempt: Attempt) -> bool:
    """Whether an error of ours is about another rank, in words that are not known: its exit code tells."""
    codes = {ended.code for ended in attempt.exits}
    return event.cause.name == OWN_ERROR and event.is_reason and codes == {ExitCode.PEER}


def _because(sign: Sign, last: Last) -> Explanation:
    """Something that says by itself why the training ended."""
    event, rank = sign.event, sign.event.rank
    also, home = _same_error(event, last)
    ends = [(one, ended) for one, attempt in last for ended in attempt.exits]
    own = [(one, ended) for one, ended in ends if ended.code != ExitCode.PEER]
    if rank is None and len(here := [ended for one, ended in own if one is sign.node]) == 1:
        rank = here[0].rank
    if home is None:
        told = next((one for one, ended in own if ended.rank == rank), None)
        home = (told or (sign.node if len(last) == 1 else None)) if event.is_reason else sign.node
    codes = [ended.code for _, ended in sorted(own, key=lambda pair: pair[1].rank != rank)]
    codes += [ended.code for _, ended in ends]
    event = _told_by(home, event, last)
    found = Explanation("failed", event.cause, event, rank, event.facts.get("host", ""), home, also=also)
    found.code = codes[0] if codes else None
    if event.cause.name == OWN_ERROR and codes and classify_exit(codes[0])[0].kind is Kind.CAUSE:
        found.cause, _ = classify_exit(codes[0])
    if event.cause.name == HANG:  # whoever says it waits for the others
        found.rank, found.host, found.node = event.absent, "", None
    return found


def _same_error(event: Event, last: Last) -> tuple[Event | None, Node | None]:
    """The traceback of an error that the ranks agreed on, and the node that printed it."""
    said = event.facts.get("said", "")
    for node, attempt in last if event.is_reason else ():
        for other in attempt.all_events():
            if other is not event and said.startswith(other.text):
                return other, node
    return None, None


def _told_by(home: Node | None, event: Event, last: Last) -> Event:
    """The same line in the log of the node where it happened: the others repeat it."""
    for node, attempt in last:
        for other in attempt.all_events() if node is home else ():
            if other.text == event.text:
                return other
    return event


def _by_exit(signs: list[Sign]) -> Explanation:
    """Nothing but an exit code says why. What the other ranks missed may say who it was."""
    first = signs[0]
    assert first.exit is not None
    found = Explanation("failed", first.event.cause, first.event, first.exit.rank, node=first.node)
    found.code = first.exit.code
    missing = next((sign.event for sign in signs if sign.event.absent is not None), None)
    if missing is not None and found.rank in (None, missing.absent):
        found.rank, found.host = missing.absent, missing.facts.get("absent_host", "")
    return found


def _unseen(signs: list[Sign]) -> Explanation:
    """Only what follows from the failure is there; the failure itself is not."""
    event = signs[0].event
    code = next((sign.exit.code for sign in signs if sign.exit), None)
    return Explanation(
        "failed", event.cause, event, event.absent, event.facts.get("absent_host", ""), code=code
    )


def _stuck(attempt: Attempt) -> Event | None:
    """That starts before this one saved nothing, where this one has saved nothing either."""
    said = [event for event in attempt.all_events() if event.cause is FRUITLESS_START]
    return said[-1] if said and attempt.saved_step is None else None


def _end(last: Last) -> Explanation:
    """There was no failure: complete, stopped by a signal, or interrupted without a word."""
    ends = [(node, event) for node, attempt in last for event in attempt.stands(Kind.END)]
    for node, attempt in last:
        ends += [(node, one.event) for one in attempt.exits if one.event.cause.kind is Kind.END]
    completed = [pair for pair in ends if pair[1].cause.name in COMPLETED]
    if ends:
        node, event = (completed or ends)[0]
        outcome = "completed" if completed else "stopped"
        return Explanation(outcome, event.cause, event, event.rank, node=node)  # type: ignore[arg-type]
    if any(attempt.marks or attempt.is_masters or attempt.is_checked for _, attempt in last):
        stuck = next((said for _, attempt in last if (said := _stuck(attempt))), None)
        return Explanation("interrupted", stuck.cause if stuck else SILENT, stuck)
    return Explanation("unknown", UNKNOWN, None)
