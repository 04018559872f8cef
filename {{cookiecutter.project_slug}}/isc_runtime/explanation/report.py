"""An explanation on one screen, for people; and as JSON, for machines."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from isc_runtime.errors import ExitCode
from isc_runtime.explanation.answer import Explanation, Node
from isc_runtime.explanation.attempt import Attempt
from isc_runtime.explanation.cause import Event, Kind

WIDTH = 110
LONGEST_STORY = 12  # lines
LONGEST_LINE = 180  # characters
LONGEST_QUOTE = 600


@dataclass(frozen=True)
class Entry:
    """A line of the story.

    Attributes:
        node: where.
        file: the log.
        line: the line's number in it.
        time: seconds since 1970, or None.
        text: what is there, clean.
        is_first: whether it is what was first.
    """

    node: str
    file: str
    line: int
    time: float | None
    text: str
    is_first: bool = False


def story(found: Explanation) -> list[Entry]:
    """The last attempt in order: how it began, what was noticed, what was first, what followed."""
    before: list[Entry] = []
    after: list[Entry] = []
    for node, attempt in found.last:
        if attempt.began_at is not None:
            text = f"goes on from step {attempt.began_at}" if attempt.began_at else "starts at step 0"
            before.append(Entry(node.name, attempt.file, attempt.began_line, attempt.began, text))
        for event in [*attempt.all_events(), *(ended.event for ended in attempt.exits)]:
            is_repeated = found.first is not None and event.text == found.first.text
            if is_repeated or event is found.also:
                continue
            is_before = event.cause.kind is Kind.NOTICE or attempt.survived(event)
            (before if is_before else after).append(_entry(node, event))
    first = []
    if found.first is not None:
        home = next((node for node, attempt in found.last if attempt.file == found.first.file), None)
        first = [_entry(home, found.first, is_first=True)]
    is_silent = found.first is None or found.outcome == "interrupted"
    ends = [_silence(node, attempt) for node, attempt in found.last] if is_silent else []
    before, after = sorted(before, key=_order), sorted(after, key=_order)
    room = max(2, LONGEST_STORY - len(first) - len(ends) - len(after[:5]))
    if len(before) > room:
        before = [before[0], *before[len(before) - room + 1 :]]
    return [*before, *first, *after[:5], *ends[:4]]


def _order(entry: Entry) -> tuple[float, str, int]:
    return (entry.time if entry.time is not None else float("inf"), entry.node, entry.line)


def _entry(node: Node | None, event: Event, is_first: bool = False) -> Entry:
    text = event.text + (f"  ({event.code})" if event.code else "")
    return Entry(node.name if node else "", event.file, event.line, event.time, text, is_first)


def _silence(node: Node, attempt: Attempt) -> Entry:
    how = "the log ends within this line" if attempt.is_cut else "the log ends here"
    text = f"{how}: {attempt.last_text}"
    return Entry(node.name, attempt.file, attempt.last_line, attempt.ended, text)


def as_text(found: Explanation) -> str:
    """One screen."""
    rows = [
        ("Outcome", _outcome(found)),
        ("Cause", _meaning(found)),
        ("First", _who(found)),
        ("It says", _quote(found)),
        ("Training", _progress(found)),
        ("To do", _to_do(found)),
        *(("Note", note) for note in found.notes),
        ("Basis", _basis(found)),
    ]
    lines = [line for heading, text in rows if text for line in _row(heading, text)]
    entries = story(found)
    lines += ["", "In order:"] if entries else []
    for entry in entries:
        clock = datetime.fromtimestamp(entry.time, timezone.utc).strftime("%H:%M:%S") if entry.time else ""
        text = f"{'>' if entry.is_first else ' '} {clock:8} {entry.file}:{entry.line}  {entry.text}"
        lines.append(_cut(text, LONGEST_QUOTE if entry.is_first else LONGEST_LINE).rstrip())
    return "\n".join(lines)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + " ..."


def _row(heading: str, text: str) -> Iterator[str]:
    wrapped = textwrap.wrap(text, WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(wrapped):
        yield f"{heading if number == 0 else '':9} {line}"


def _outcome(found: Explanation) -> str:
    words = {
        "failed": "It failed",
        "interrupted": "It was interrupted, or still runs",
        "stopped": "It was asked to stop, and stopped",
        "completed": "It is complete",
        "unknown": "It is not known",
    }
    code = f", with exit code {found.code}" if found.code is not None else ""
    return words[found.outcome] + code


def _meaning(found: Explanation) -> str:
    if found.first is None or found.cause is not found.first.cause:
        return found.cause.meaning
    return found.first.meaning


def _who(found: Explanation) -> str:
    names = [found.node.name] if found.node is not None else []
    if found.rank is not None:
        names.append(f"rank {found.rank}" + (f" on {found.host}" if found.host else ""))
    where = f" ({found.also.code or found.first.code})" if found.also and found.first else ""
    if found.first is not None and not where and found.first.code:
        where = f" ({found.first.code})"
    return ", ".join(names) + (where if where != " ()" else "")


def _quote(found: Explanation) -> str:
    if found.first is None:
        return ""
    is_cause = found.first.meaning in (found.first.text, found.first.facts.get("message"))
    shown = "" if is_cause else f"{_cut(found.first.text, LONGEST_QUOTE)}  "  # the cause is that line already
    also = f"; traceback at {found.also.file}:{found.also.line}" if found.also else ""
    return f"{shown}[{found.first.file}:{found.first.line}{also}]"


def _progress(found: Explanation) -> str:
    master = found.master
    if found.outcome == "unknown":
        return ""
    parts = []
    if master.step is not None:
        epoch = f"epoch {master.epoch}, " if master.epoch is not None else ""
        parts.append(f"last seen at {epoch}step {master.step}")
    elif found.outcome == "failed":
        parts.append("it ended before its first step")
    saved = found.saved_step
    parts.append(
        f"last completed checkpoint: step {saved}" if saved is not None else "no completed checkpoint seen"
    )
    if master.failed_saves:
        parts.append(f"{master.failed_saves} failed saves")
    starts = max(node.starts for node in found.nodes)
    resumes = max(node.resumes for node in found.nodes)
    times = {0: "never", 1: "once", 2: "twice"}.get(resumes, f"{resumes} times")
    parts.append(f"attempt {starts}, resumed {times}")
    return "; ".join(parts)


def _to_do(found: Explanation) -> str:
    same = found.first is not None and found.cause is found.first.cause
    text = found.first.to_do if found.first is not None and same else found.cause.to_do
    if found.first is not None and not same:  # our own message, of the kind that the exit code tells
        text = f"Do what the message says. {text}"
    return f"{text} {_next_start(found)}".rstrip() if found.outcome == "failed" else text


def _next_start(found: Explanation) -> str:
    """Where the training goes on. Nothing is promised when the checkpoints themselves are what is wrong."""
    if found.code == ExitCode.CHECKPOINT or found.saved_step is None:
        return ""
    if not found.master.is_on_isc:
        return f"The next start goes on from step {found.saved_step}."
    return (
        f"The same experiment goes on from step {found.saved_step}; a new isc train begins with an empty "
        "artifact, unless input_artifact_id_list names the old one."
    )


def _basis(found: Explanation) -> str:
    if found.cause.seen:
        return ""
    return f"from public documentation; this project's tests have not seen this failure: {found.cause.source}"


def as_json(found: Explanation) -> str:
    """The same for machines. What is not known is null."""
    master, first = found.master, found.first
    content: dict[str, Any] = {
        "outcome": found.outcome,
        "cause": found.cause.name,
        "meaning": _meaning(found),
        "to_do": _to_do(found),
        "seen": found.cause.seen,
        "source": found.cause.source,
        "exit_code": found.code,
        "first": {
            "rank": found.rank,
            "host": found.host or None,
            "node": found.node.number if found.node else None,
            "shown_at": _place(first),
            "traceback_at": _place(found.also),
            "code": (found.also.code if found.also else first.code if first else "") or None,
        },
        "training": {
            "step": master.step,
            "epoch": master.epoch,
            "saved_step": found.saved_step,
            "failed_saves": master.failed_saves,
            "attempts": max(node.starts for node in found.nodes),
            "resumes": max(node.resumes for node in found.nodes),
        },
        "notes": found.notes,
        "story": [vars(entry) for entry in story(found)],
    }
    return json.dumps(content, indent=1)


def _place(event: Event | None) -> dict[str, Any] | None:
    return None if event is None else {"file": event.file, "line": event.line, "text": event.text}
