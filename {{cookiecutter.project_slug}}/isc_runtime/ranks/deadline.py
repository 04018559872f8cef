"""How long a batch may take before the training is taken for hung."""

from __future__ import annotations

import time

STILL = 2.0  # seconds without a look: the process was stopped meanwhile, by Ctrl-Z, or by who suspends jobs


class Deadline:
    """When the batch must be done. Whoever waits for it asks several times a second.

    Args:
        first_timeout: seconds in which the first batch must be done.
        timeout: seconds from one batch to the next.

    Attributes:
        limit: seconds for the present batch.
        is_first: whether it is the first one.
    """

    def __init__(self, first_timeout: float, timeout: float) -> None:
        self._timeout = timeout
        self.limit, self.is_first = first_timeout, True
        self._looked = time.monotonic()
        self._end = self._looked + first_timeout

    def progress(self) -> None:
        """A batch is done."""
        self.limit, self.is_first = self._timeout, False
        self._end = time.monotonic() + self._timeout

    def begin_anew(self) -> None:
        """The present batch has its whole time once more."""
        self._end = max(self._end, time.monotonic() + self.limit)

    def is_over(self, margin: float = 0.0) -> bool:
        """Whether it is over, by so many seconds. Time in which this process stood still does not count."""
        now, before = time.monotonic(), self._looked
        self._looked = now
        if now - before > STILL:
            self._end += now - before
        return now > self._end + margin
