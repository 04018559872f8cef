"""How soon a cycle gets somewhere, and how far the training is from a size at which it would not any more."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from isc_runtime.rehearsal.cycle import TERMINATED, Cycle
from isc_runtime.rehearsal.plan import CYCLE_SECONDS
from isc_runtime.sizes import readable_size
from isc_runtime.submission.finding import Finding, Severity

NEAR = 0.5  # the share of a cycle after which a first save is too late to be sure of it
CURE = (
    "Every cycle begins where the last one began. Save sooner (--save-steps auto: after the first batch), "
    "do less before the first batch, or make batches smaller (--batch-size)."
)


@dataclass(frozen=True)
class Pace:
    """Of the slowest cycle, in seconds from the start of its command. None is what was not seen.

    Attributes:
        cycle_seconds: how long a cycle lasts; None where the mode has no such limit.
        first_step: until its first step was done.
        first_save: until its first save was complete, with its link: from then on it is not lost.
        stop: from SIGTERM to the end of all processes.
        batch: of a batch, the median.
        batches: so many came before that save.
        size: bytes of a checkpoint.
        handling: to restore one and to save one.
    """

    cycle_seconds: float | None
    first_step: float | None = None
    first_save: float | None = None
    stop: float | None = None
    batch: float = 0.0
    batches: int = 1
    size: int = 0
    handling: float = 0.0

    @classmethod
    def of(cls, cycles: Sequence[Cycle], cycle_seconds: float | None) -> Pace:
        """Takes it from cycles that are over."""
        stops = [one.stop_seconds for one in cycles if one.end == TERMINATED and one.stop_seconds is not None]
        stop = max(stops, default=None)
        firsts = [one.first_step_seconds for one in cycles if one.first_step_seconds is not None]
        saved = [(seconds, one) for one in cycles if (seconds := one.first_save_seconds) is not None]
        if not saved:
            return cls(cycle_seconds, max(firsts, default=None), stop=stop)
        seconds, slowest = max(saved, key=lambda pair: pair[0])
        master = slowest.trace.ranks[0]
        step, published_at = next(iter(master.published.items()))
        begun = slowest.trace.started_at_step
        times = [master.steps[number].at for number in sorted(master.steps)]
        batch = median([after - at for at, after in itertools.pairwise(times)] or [0.0])
        since = max(0.0, published_at - master.steps[step].at) if step in master.steps else 0.0
        return cls(
            cycle_seconds,
            max(firsts, default=None),
            seconds,
            stop,
            batch,
            max(1, step - begun) if begun is not None else 1,
            slowest.checkpoint_bytes,
            since + master.restored_seconds,
        )

    @property
    def left(self) -> float | None:
        """Seconds of a cycle that are left after its first save; less than 0 if it comes too late."""
        if self.first_save is None or self.cycle_seconds is None:
            return None
        return self.cycle_seconds - self.first_save

    @property
    def longest_batch(self) -> float | None:
        """Seconds of a batch from which on no cycle would come to a save."""
        return None if self.left is None else max(0.0, self.batch + self.left / self.batches)

    @property
    def largest_checkpoint(self) -> int | None:
        """Bytes from which on no cycle would come to a save, as fast as they are restored and saved here."""
        if self.left is None or not self.size or self.handling <= 0:
            return None
        return max(0, round(self.size * (1 + self.left / self.handling)))

    def words(self) -> Iterator[str]:
        """What a person wants to know of it."""
        parts = [
            (self.first_step, "s to the first step"),
            (self.first_save, "s to the first completed save"),
            (self.stop, "s from SIGTERM to the end"),
        ]
        said = ", ".join(f"{seconds:.1f} {what}" for seconds, what in parts if seconds is not None)
        within = f" in a cycle of {self.cycle_seconds:g} s" if self.cycle_seconds is not None else ""
        if said:
            yield f"From the start of the command, at most{within}: {said}."
        if self.longest_batch is not None:
            size = self.largest_checkpoint
            more = (
                f", or with a checkpoint of {readable_size(size)} (now {readable_size(self.size)})"
                if size
                else ""
            )
            yield (
                f"On this machine no cycle would come to a save with batches of {self.longest_batch:.3g} s "
                f"(now {self.batch:.3g} s){more}."
            )


def judge_pace(pace: Pace) -> Iterator[Finding]:
    """Does a cycle end further than it began?"""
    if pace.left is None or pace.cycle_seconds is None:
        return
    seconds = f"{pace.first_save:.0f} s after the start, and a cycle has {pace.cycle_seconds:g} s"
    if pace.left < 0:
        # Of a cycle that somebody made so short it is a warning; the ISC's own length is what counts.
        severity: Severity = "error" if pace.cycle_seconds >= CYCLE_SECONDS else "warning"
        what = f"No cycle makes progress: its first save is complete {seconds}"
        yield Finding("experiment.isc", what, CURE, severity)
    elif pace.left < NEAR * pace.cycle_seconds:
        what = f"The first save is complete {seconds}: a slower machine would make no progress"
        yield Finding("experiment.isc", what, CURE, "warning")
