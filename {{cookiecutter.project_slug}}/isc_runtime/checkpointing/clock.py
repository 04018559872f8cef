"""When a save is due by time: the ranks' clocks differ, and yet all of them must save at the same batch."""

from __future__ import annotations

import time

from isc_runtime.checkpointing.policy import SavePolicy
from isc_runtime.ranks.group import Group

SLOW = 0.5  # seconds of a batch
LATENCY = 2  # batches until what a rank says of a batch is acted upon: read at the next one, then one more


class Clock:
    """Tells the policy when a save is due by time, on all ranks alike.

    That travels with what the ranks tell each other at each batch anyway (`Group.pulse`), which is acted upon
    two batches later. Where batches are so slow that this matters, or nobody knows yet how slow they are, the
    ranks ask the master, which is nothing beside such a batch.

    Args:
        policy: is told.
        group: the ranks.
        max_seconds: of training, over all resumes, after which the time is up.

    Attributes:
        is_evaluation: whether what it was asked about last was an evaluation.
        training_seconds: of the last batch that was trained on, as all ranks know it.
        is_time_up: whether the time is up, as all ranks know since the last poll.
    """

    def __init__(self, policy: SavePolicy, group: Group, max_seconds: float) -> None:
        self._policy = policy
        self._group = group
        self._max_seconds = max_seconds
        self._seconds_before, self._since = 0.0, time.monotonic()
        self.is_time_up = False
        self._polls = self._polls_at_save = 0
        self._polled = time.monotonic()
        self._unknown, self._seconds = LATENCY, 0.0
        self.training_seconds = 0.0
        self.is_evaluation = False

    def look(self, is_evaluation: bool, is_writing: bool) -> None:
        """Called where a save would be possible. A collective, if batches are slow."""
        if is_evaluation != self.is_evaluation:  # other batches
            self.is_evaluation, self._unknown = is_evaluation, LATENCY
        if self.is_slow and self._group.master(lambda: self._is_late(is_writing)):
            self._policy.ask()

    @property
    def is_slow(self) -> bool:
        """Whether two batches are a long time, or nobody knows yet; the same on all ranks."""
        return not self.is_pace_known or self._seconds > SLOW

    @property
    def is_pace_known(self) -> bool:
        """Whether a batch of this kind has been timed; the same on all ranks."""
        return self._unknown == 0

    def since_poll(self) -> float:
        """Seconds since the last poll: at a poll that is how long a batch takes."""
        return time.monotonic() - self._polled

    def _is_late(self, is_writing: bool) -> bool:
        return not is_writing and self._policy.is_late(time.monotonic())

    def resumed(self, seconds: float) -> None:
        """The training has taken so many seconds before this start."""
        self._seconds_before, self._since = seconds, time.monotonic()

    def seconds_trained(self) -> float:
        """Since the training began, over all resumes."""
        return self._seconds_before + time.monotonic() - self._since

    def words(self, is_writing: bool) -> tuple[int, int, int, int]:
        """What this rank says at a poll: whether its time is up, the poll's number if a save is due,
        milliseconds since the last one, and these again if it trained meanwhile.
        """
        before, self._polled = self._polled, time.monotonic()
        self._polls += 1
        is_time_up = int(self.seconds_trained() > self._max_seconds)
        late_poll = self._polls if self._is_late(is_writing) else 0
        milliseconds = int(1000 * (self._polled - before))
        return is_time_up, late_poll, milliseconds, 0 if self.is_evaluation else milliseconds

    def heard(self, is_time_up: int, late_poll: int, milliseconds: int, of_training: int) -> None:
        """What the ranks said at the poll before this one: the largest of each word."""
        self.is_time_up |= bool(is_time_up)
        self._unknown, self._seconds = max(0, self._unknown - 1), milliseconds / 1000
        if of_training:
            self.training_seconds = of_training / 1000
        if late_poll > self._polls_at_save:  # what was said before a save is answered by it
            self._policy.ask()

    def begun(self) -> None:
        """A save begins."""
        self._polls_at_save = self._polls
