"""What else a reader should know: missing logs, saves that were cut short, attempts that get nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from isc_runtime.explanation.answer import Explanation


def notes(found: Explanation) -> Iterator[str]:
    """What else a reader should know."""
    master = found.master
    if found.rank is not None and found.node is None and found.outcome == "failed":
        silent = [node.name for node, attempt in found.last if not attempt.events and not attempt.exits]
        if silent:
            yield (
                f"The log of {', '.join(silent)} ends without a word: its machine is gone, or the ISC "
                "interrupted all nodes, and this one a moment before the others."
            )
        else:
            yield f"No log says what rank {found.rank} met: that of its node is not among these."
    if len(found.last) < len(found.nodes):
        left = sorted({node.name for node in found.nodes} - {node.name for node, _ in found.last})
        yield f"Not part of the last attempt, by their clocks: {', '.join(left)}."
    saving = master.saving_step
    if found.outcome != "completed" and saving is not None and saving > (master.saved_step or -1):
        yield f"The save of step {saving} had begun and did not complete."
    yield from _standstill(found)


def _standstill(found: Explanation) -> Iterator[str]:
    """Attempts that each began where the last one began: nothing was saved in between."""
    starts: list[int] = []
    for node in found.nodes:
        if any(attempt.is_masters for attempt in node.attempts):
            starts = [one.began_at for one in node.attempts if one.began_at is not None]
    same = 0
    for start in reversed(starts):
        if start != starts[-1]:
            break
        same += 1
    if same > 1 and found.outcome != "completed":
        yield (
            f"The last {same} attempts all began at step {starts[-1]}: no checkpoint was completed between "
            "them. Save sooner (--save-seconds, --mtbf-seconds), or each attempt repeats the one before."
        )
