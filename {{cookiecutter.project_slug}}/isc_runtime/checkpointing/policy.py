"""When to save: every so many batches, or as often as pays, and never later than after so many seconds."""

from __future__ import annotations

import math

from isc_runtime.options import AUTO, CheckpointOptions

FIRST_STEPS = 10  # "auto" begins with this and corrects it


class SavePolicy:
    """Decides when a save is due: by the number of batches, or by the time since the last one.

    A given number of batches counts within the epoch, as `(batch + 1) % save_steps == 0`. "auto" counts the
    batches since the last save, and finds their number from what a save costs: counted within the epoch, a
    number that changes after each save would be met nearly twice as often as it says. It begins each start
    with a save after the first batch: from there on a kill loses no whole cycle. A save that is written keeps
    the next one waiting: to save more often would only queue.

    The number is the same on all ranks, the time is not: a rank that `is_late` tells the others, and then all
    of them `ask`.

    Args:
        options: how often to save.
        now: seconds, of a monotonic clock; counts as the time of a last save.

    Attributes:
        save_steps: batches between two saves.
        pace: of the training; a Checkpointer tells it what happens.
    """

    def __init__(self, options: CheckpointOptions, now: float) -> None:
        self._is_auto = options.save_steps == AUTO
        self._mtbf_seconds = options.mtbf_seconds
        self._most_seconds = options.most_seconds
        self.save_steps = options.save_steps or FIRST_STEPS
        self.pace = Pace()
        self._cost = 0.0  # seconds that each save costs, as the master says
        self._last_step = 0
        self._last_time = now
        self._is_asked = False
        self._has_saved = False  # since this start
        self._is_owed = self._was_owed = False  # another save; and when the last one began
        self._owes_nothing = False  # any more

    def resumed(self, step: int) -> None:
        """The training goes on from a save of this step."""
        self._last_step = step

    def begun(self, step: int, now: float) -> None:
        """A save begins at this step, at this time."""
        self._last_step, self._last_time, self._has_saved = step, now, True
        self._is_asked = False
        self._was_owed, self._is_owed = self._is_owed, False
        self.pace.save_begun()

    def due(self, step: int, batch: int | None, is_saving: bool) -> bool:
        """Whether to save now, as all ranks know.

        Args:
            step: batches since the start of the training.
            batch: the one that was just trained on, counted from 0 within the epoch; None in an evaluation.
            is_saving: whether a save is under way.
        """
        if self._is_asked or (self._is_auto and not self._has_saved):
            return True
        if batch is None:
            return False
        if self._is_auto:
            return not is_saving and step - self._last_step >= self.save_steps
        return (batch + 1) % self.save_steps == 0

    def is_late(self, now: float) -> bool:
        """Whether the last save was too long ago, by this rank's clock, or was of other weights."""
        return self._is_owed or now - self._last_time >= self._longest(self._cost)

    def owe(self) -> None:
        """The weights that are trained on are not those of the last save: another one is due soon. If that
        was so of such a one, too, each batch changes them, and a resume does that again."""
        self._owes_nothing |= self._was_owed
        self._is_owed = not self._owes_nothing

    def ask(self) -> None:
        """A rank is late, and all ranks know it now."""
        self._is_asked = True

    def _longest(self, cost: float) -> float:
        """The longest time from one save's beginning to the next one's: half of it is left to train."""
        return max(self._most_seconds, 2 * cost)

    def saved(self, write_seconds: float) -> tuple[int, float]:
        """A save has ended: the batches between two saves from now on, and the seconds that each costs.

        The master's alone; it tells the others.

        Args:
            write_seconds: seconds from its beginning until it was durable.
        """
        cost = self.pace.save_seconds
        if not (self._is_auto and self.pace.batch_seconds):
            return self.save_steps, cost
        seconds = max(write_seconds, min(best_interval(cost, self._mtbf_seconds), self._longest(cost)))
        steps = max(1, round(seconds / self.pace.batch_seconds))
        # Without a batch that had no save beside it nobody knows what one costs: saves that follow each other
        # would go on doing so.
        more = 0 if self.pace.is_cost_known else max(FIRST_STEPS, steps // 4)
        return steps + more, cost

    def agree(self, save_steps: int, cost: float) -> None:
        """What the master has said, on all ranks: the batches between two saves, and the cost of each."""
        self.save_steps, self._cost = save_steps, cost


class Pace:
    """How long a batch takes, and how much longer the training takes for a save.

    That is the time for which a save makes the training stand still, which is measured where it does, and
    by how much the batches beside a save are longer than others: its copying and writing take memory, cores
    and network from them.

    What is no batch tells nothing of either: the start of a training or of an epoch (loaders, the first
    fetch, compilation), an evaluation, and whatever lies between that and the end of the next batch. To take
    an epoch's start for the cost of the save before it makes that ten times as large. The first save of a
    start makes memory and files that the others find: it counts only until the second one begins.
    """

    def __init__(self) -> None:
        self._batches = {False: 0, True: 0}  # by whether a save was under way
        self._seconds = {False: 0.0, True: 0.0}
        self._saves = 0  # that count
        self._is_first = True
        self._seconds_still = 0.0  # of all saves that count
        self._still_since_poll = 0.0
        self._is_beside_save = False  # something since the last poll was
        self._step: int | None = None
        self._was_batch = False  # what the last poll ended
        self._at = 0.0

    def poll(self, step: int, batch: int, is_saving: bool, now: float) -> None:
        """Notes the end of a batch; or of something else, an evaluation for one, if the step is the last one.

        Args:
            step: the training's.
            batch: batches done in the epoch.
            is_saving: whether a save is under way.
            now: seconds, of a monotonic clock.
        """
        is_batch = self._step is not None and step != self._step
        if is_batch and self._was_batch and batch > 1:
            self._batches[self._is_beside_save] += 1
            self._seconds[self._is_beside_save] += now - self._at - self._still_since_poll
        self._was_batch = is_batch or self._step is None
        self._step, self._at = step, now
        self._still_since_poll, self._is_beside_save = 0.0, is_saving

    def save_begun(self) -> None:
        """A save begins."""
        if self._saves and self._is_first:
            self._is_first = False
            self._saves, self._seconds_still = 0, 0.0
            self._batches[True], self._seconds[True] = 0, 0.0
        self._saves += 1
        self._is_beside_save = True

    def stood_still(self, seconds: float, is_usual: bool = True) -> None:
        """For so long a save has made the training stand still, as each one does, or only this one."""
        self._still_since_poll += seconds
        self._seconds_still += seconds if is_usual else 0.0

    @property
    def is_cost_known(self) -> bool:
        """Whether there were batches without a save beside them, with which others can be compared."""
        return self._batches[False] > 0

    @property
    def batch_seconds(self) -> float:
        """Of a batch without a save; if there was none, of any. 0 if there was no batch yet."""
        key = self._batches[False] == 0
        return self._seconds[key] / max(1, self._batches[key])

    @property
    def save_seconds(self) -> float:
        """Seconds by which each save makes the training longer; a failed one, too."""
        slower = self._seconds[True] - self._batches[True] * self.batch_seconds
        return (self._seconds_still + max(0.0, slower)) / max(1, self._saves)


def best_interval(cost: float, mtbf_seconds: float) -> float:
    """Seconds between two saves with which the least is lost: Daly's second order (2006).

    Young's sqrt(2 x cost x time to failure) is its first term. It is too long where the cost is no longer
    small beside the time to failure: from half of that on it asks for less than one save in it.

    Args:
        cost: seconds by which a save makes the training longer.
        mtbf_seconds: mean time between failures.
    """
    share = cost / (2 * mtbf_seconds)
    if share >= 1:
        return mtbf_seconds
    return math.sqrt(2 * cost * mtbf_seconds) * (1 + math.sqrt(share) / 3 + share / 9) - cost
