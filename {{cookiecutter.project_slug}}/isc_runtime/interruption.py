"""Being asked to stop: SIGTERM and SIGUSR1 set a flag; a second signal ends the process at once."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """Ends a training that was asked to stop, after it has saved.

    Never with 0: the ISC reads 0 as completed.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.signal_number = signal_number


class StopRequest:
    """What the signals said. The handlers set a flag and nothing else: anything more could deadlock.

    Attributes:
        signal_number: the signal that asked, or 0.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._process = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number or os.getpid() != self._process:  # a forked child has nothing to save
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal_number = number


def prepare_worker(worker_id: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: a worker lives exactly as long as its training.

    A signal to the whole process group must not take the data away from a training that still has a step to
    finish; and a training that is killed must not leave workers behind (Linux; elsewhere they notice later).
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
