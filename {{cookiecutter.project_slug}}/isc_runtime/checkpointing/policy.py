"""When to save: every so many batches, or as often as pays."""

from __future__ import annotations

import math

from isc_runtime.options import AUTO, CheckpointOptions

FIRST_STEPS = 10  # "auto" begins with this and corrects it


class SavePolicy:
    """Decides when a save is due; on all ranks alike.

    A given number of batches counts within the epoch, as `(batch + 1) % save_steps == 0`. "auto" counts the
    batches since the last save, and finds their number from what a save costs.

    Args:
        options: how often to save.

    Attributes:
        save_steps: batches between two saves.
    """

    def __init__(self, options: CheckpointOptions) -> None:
        self._is_auto = options.save_steps == AUTO
        self._mtbf_seconds = options.mtbf_seconds
        self.save_steps = options.save_steps or FIRST_STEPS
        self.pace = Pace()
        self._last_step = 0

    def begun(self, step: int) -> None:
        """A save begins at this step, or the training goes on from one."""
        self._last_step = step

    def due(self, step: int, batch: int) -> bool:
        """Whether to save now.

        Args:
            step: batches since the start of the training.
            batch: the one that was just trained on, counted from 0 within the epoch.
        """
        if self._is_auto:
            return step - self._last_step >= self.save_steps
        return (batch + 1) % self.save_steps == 0

    def saved(self, held_up: float, write_seconds: float) -> tuple[int, float]:
        """A save has ended: the batches between two saves from now on, and the seconds that each costs.

        The master's alone; it tells the others.

        Args:
            held_up: seconds for which the training stood still.
            write_seconds: seconds from its beginning until it was durable.
        """
        self.pace.save_ended()
        cost = max(held_up, self.pace.save_seconds)
        if not (self._is_auto and self.pace.batch_seconds):
            return self.save_steps, cost
        return best_interval(cost, write_seconds, self._mtbf_seconds, self.pace.batch_seconds), cost


class Pace:
    """How long a batch takes, and how much longer the training takes for a save.

    That is more than what a save holds up: its copying and writing beside the training take memory, cores and
    network from it.
    """

    def __init__(self) -> None:
        self._batches = {False: 0, True: 0}  # by whether a save was under way
        self._seconds = {False: 0.0, True: 0.0}
        self._saves = 0
        self._was_saving = False
        self._step: int | None = None
        self._at = 0.0

    def poll(self, step: int, is_saving: bool, now: float) -> None:
        """Notes the end of a batch; or of something else, an evaluation for one, if the step is the last one.

        Args:
            step: the training's.
            is_saving: whether a save is under way.
            now: seconds, of a monotonic clock.
        """
        if self._step is not None and step != self._step:  # the first batch warms up
            key = is_saving or self._was_saving
            self._batches[key] += 1
            self._seconds[key] += now - self._at
        self._step, self._was_saving, self._at = step, is_saving, now

    def save_ended(self) -> None:
        """A save is published."""
        self._saves += 1

    @property
    def batch_seconds(self) -> float:
        """Of a batch without a save; if there was none, of any."""
        key = self._batches[False] == 0
        return self._seconds[key] / max(1, self._batches[key])

    @property
    def save_seconds(self) -> float:
        """By how much the batches with a save were longer, for each save; 0 if they were not."""
        longer = self._seconds[True] - self._batches[True] * self.batch_seconds
        return max(0.0, longer) / max(1, self._saves)


def best_interval(cost: float, write_seconds: float, mtbf_seconds: float, batch_seconds: float) -> int:
    """Batches between two saves that lose the least: after Young (1974), sqrt(2 x cost x time to failure).

    Args:
        cost: seconds by which a save makes the training longer.
        write_seconds: seconds until it is on the disk; saving more often than that only queues.
        mtbf_seconds: mean time between failures.
        batch_seconds: seconds of one batch.
    """
    seconds = max(math.sqrt(2 * cost * mtbf_seconds), write_seconds)
    return max(1, round(seconds / max(batch_seconds, 1e-6)))
