"""Files outside of the artifacts that one cycle, or one node, left behind and another one read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isc_runtime.rehearsal.cycle import Cycle
from isc_runtime.submission.finding import Finding

Place = tuple[int, int]  # number of a cycle, from 0, and of a node


@dataclass(frozen=True)
class LeftBehind:
    """A file that was read by another one than wrote it.

    Attributes:
        path: the file.
        writer: the first one that wrote it.
        reader: the first one that read it, and had not written it itself.
    """

    path: str
    writer: Place
    reader: Place

    @property
    def is_of_another_cycle(self) -> bool:
        """Whether it outlasted a cycle; else another node read it."""
        return self.writer[0] != self.reader[0]


def left_behind(cycles: Sequence[Cycle]) -> list[LeftBehind]:
    """The files, in the order in which they were read; of each the first reading that counts.

    Args:
        cycles: in the order in which they ran.
    """
    written: dict[str, dict[Place, float]] = {}
    read: list[tuple[float, str, Place]] = []
    for number, cycle in enumerate(cycles):
        for rank, told in cycle.trace.ranks.items():
            place = (number, rank // cycle.procs)
            for path, at in told.wrote.items():
                writers = written.setdefault(path, {})
                writers[place] = min(at, writers.get(place, at))
            read += [(at, path, place) for path, at in told.read_files.items()]
    found: dict[str, LeftBehind] = {}
    for at, path, place in sorted(read):
        before = {writer: when for writer, when in written.get(path, {}).items() if when <= at}
        if before and place not in before:
            found.setdefault(path, LeftBehind(path, min(before), place))
    return list(found.values())


def judge_left_behind(cycles: Sequence[Cycle]) -> Iterator[Finding]:
    """Would a node of the ISC have what it read?

    A warning: whether it is a cache, which is made again, or what the training goes on from, nobody can see.
    """
    found = left_behind(cycles)
    kept = [one for one in found if one.is_of_another_cycle]
    shared = [one for one in found if not one.is_of_another_cycle]
    if kept:
        writer, reader = (cycles[place[0]].name for place in (kept[0].writer, kept[0].reader))
        which = f"{kept[0].path}{_more(kept)}"
        what = f"In {reader} it reads {which}, which {writer} wrote: on the ISC that would be gone"
        hint = "What the training goes on from belongs into Trainer.state(). What is made again may stay."
        yield Finding("train.py", what, hint, "warning")
    if shared:
        writer_node, reader_node = shared[0].writer[1], shared[0].reader[1]
        what = (
            f"Node {reader_node} reads {shared[0].path}{_more(shared)}, which node {writer_node} wrote: on "
            "the ISC nodes share no disk but the artifacts'"
        )
        hint = "Let one rank of each node make it, or each rank, in a folder of its own."
        yield Finding("train.py", what, hint, "warning")


def _more(found: Sequence[LeftBehind]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
