"""What the ranks of a cycle told: see startup/sitecustomize.py, which writes it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STARTUP = Path(__file__).parent / "startup"
FOLDER_VARIABLE = "ISC_REHEARSAL_TRACE"
DUMP = 1.0  # seconds for the ranks to write where they stand
FILES_VARIABLE = "ISC_REHEARSAL_FILES"
FAIL_VARIABLE = "ISC_REHEARSAL_FAIL"


@dataclass(frozen=True)
class Step:
    """A step of the training, as one rank took it.

    Attributes:
        epoch: counted from 0.
        samples: the indices of the samples, in their order; empty if no DataLoader gave them.
        at: when it was done, seconds since the epoch.
    """

    epoch: int
    samples: tuple[Any, ...]
    at: float


@dataclass
class RankTrace:
    """What one rank told so far.

    Attributes:
        file: where it tells it.
        pid: its process; 0 before it has started.
        script: the Python file that it runs; None if that is not known.
        steps: by number.
        batches: how many batches it was given.
        length: samples in the data it trains on, if the dataset tells.
        saved: what torch.save() was called with.
        left_out: what of the training has a state and is not saved.
        generators: what the data draw from besides the generators that are set anew for each batch.
        first_step_at: when its first step was done, seconds since the epoch.
        first_batch_at: when it was first seen that it got a batch.
        published: when the checkpoint of which step became the newest one, seconds since the epoch.
        wrote: files that it opened to change them, and when, outside of what is new in each cycle.
        read_files: the same, of files that it read and that were changed since the rehearsal began.
        needs: the same, of files that it read and that are of this machine.
        asked: other machines that it looked for, and when.
        restored_seconds: how long it took to go on from a checkpoint.
        is_timed: whether time ends the training, at whatever step it is then.
    """

    file: Path
    pid: int = 0
    script: Path | None = None
    steps: dict[int, Step] = field(default_factory=dict)
    batches: int = 0
    length: int | None = None
    saved: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    first_step_at: float | None = None
    first_batch_at: float | None = None
    published: dict[int, float] = field(default_factory=dict)
    wrote: dict[str, float] = field(default_factory=dict)
    read_files: dict[str, float] = field(default_factory=dict)
    needs: dict[str, float] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    restored_seconds: float = 0.0
    is_timed: bool = False
    _offset: int = 0
    _loaded: list[list[Any]] = field(default_factory=list)  # batches, and not given to the training
    _pending: list[Any] = field(default_factory=list)  # samples that the next step is taken on
    _is_ahead: bool = False

    def read(self) -> bool:
        """Reads what was added since the last call; returns whether that was anything."""
        with self.file.open("rb") as stream:
            stream.seek(self._offset)
            added = stream.read()
        whole = added[: added.rfind(b"\n") + 1]  # a kill may leave half a line
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                told = json.loads(line)
            except ValueError:  # a full disk has cut the one before
                continue
            self._note(*told)
        return bool(whole)

    def _note(self, kind: str, *values: Any) -> None:
        if kind == "start":
            self.pid = values[0]
            self.script = Path(values[1]) if values[1:] and values[1] else None
        elif kind == "loader":
            self._pending.clear()  # batches without a step were not trained on
            self._loaded.clear()
            self.length = values[0]
        elif kind == "batch":
            self.batches += 1
            self.first_batch_at = self.first_batch_at or time.time()
            self._loaded.append([_hashable(sample) for sample in values[0]])
        elif kind == "given":
            self._is_ahead = True
            self._pending.extend(self._loaded.pop(0) if self._loaded else ())  # not of a DataLoader
        elif kind == "save":
            self.saved.add(values[0])
        elif kind == "restored":
            self.restored_seconds, self.is_timed = values
        elif kind == "published":
            self.published.setdefault(*values)
        elif kind == "left out":
            self.left_out = values[0]
        elif kind == "wrote":
            self.wrote.setdefault(*values)
        elif kind == "read":
            self.read_files.setdefault(*values)
        elif kind == "needs":
            self.needs.setdefault(*values)
        elif kind == "asked":
            self.asked.setdefault(*values)
        elif kind == "generators":
            self.generators = values[0]
        elif kind == "step":
            step, epoch, at = values
            if not self._is_ahead:
                self._pending.extend(sample for batch in self._loaded for sample in batch)
                self._loaded.clear()
            self.steps[step] = Step(epoch, tuple(self._pending), at)
            self._pending.clear()
            self.first_step_at = self.first_step_at or at


def _hashable(sample: Any) -> Any:
    """An index, which may be a pair (the sample, and its size): JSON makes a list of that."""
    return tuple(map(_hashable, sample)) if isinstance(sample, list) else sample


class Trace:
    """What all ranks of a cycle told.

    Args:
        folder: where they tell it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: dict[int, RankTrace] = {}

    def read(self) -> bool:
        """Reads what was added since the last call; returns whether that was anything."""
        for file in self.folder.glob("rank_*.jsonl"):
            self.ranks.setdefault(int(file.stem.removeprefix("rank_")), RankTrace(file))
        return sum(rank.read() for rank in self.ranks.values()) > 0  # not any(): all are to be read

    @property
    def begun_at(self) -> float | None:
        """When the first step was done, seconds since the epoch; the first batch, if steps are not known."""
        ranks = self.ranks.values()
        steps = [rank.first_step_at for rank in ranks if rank.first_step_at is not None]
        batches = [rank.first_batch_at for rank in ranks if rank.first_batch_at is not None]
        return min(steps or batches, default=None)

    @property
    def steps_are_known(self) -> bool:
        """Whether the ranks call Checkpointer.poll(), which tells the steps."""
        return any(rank.steps for rank in self.ranks.values())

    @property
    def started_at_step(self) -> int | None:
        """The step at which the training began; None if none was taken."""
        return min((min(rank.steps) - 1 for rank in self.ranks.values() if rank.steps), default=None)

    @property
    def last_step(self) -> int | None:
        """The last step that any rank has taken."""
        return max((max(rank.steps) for rank in self.ranks.values() if rank.steps), default=None)

    @property
    def batches(self) -> int:
        """Batches that a rank was given."""
        return max((rank.batches for rank in self.ranks.values()), default=0)

    @property
    def length(self) -> int | None:
        """Samples in the data."""
        return next((rank.length for rank in self.ranks.values() if rank.length is not None), None)

    @property
    def saved(self) -> set[str]:
        """What torch.save() was called with on any rank."""
        return set().union(*(rank.saved for rank in self.ranks.values()))

    @property
    def left_out(self) -> list[str]:
        """What of the training has a state and is not saved."""
        return sorted({name for rank in self.ranks.values() for name in rank.left_out})

    @property
    def generators(self) -> list[str]:
        """What the data draw from besides the generators that are set anew for each batch."""
        return sorted({name for rank in self.ranks.values() for name in rank.generators})

    def dump_stacks(self) -> dict[int, str]:
        """Asks all ranks where they stand."""
        for rank in self.ranks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGUSR2)
        time.sleep(DUMP)
        return {rank: trace.file.with_suffix(".stacks").read_text() for rank, trace in self.ranks.items()}
