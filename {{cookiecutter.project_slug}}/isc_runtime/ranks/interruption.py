"""Being asked to stop: SIGTERM, SIGUSR1, SIGHUP, Ctrl-C set a flag; a second one ends the process at once."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import multiprocessing
import multiprocessing.util  # its exit function must be registered before `_end_workers`, to run after it
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType

from isc_runtime.ranks.ending import end

ONE_WISH = 2.0  # seconds: torchrun passes on a signal that a scheduler has sent to its ranks as well
PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
SHOW_STACKS = signal.SIGUSR2  # a worker writes where it stands, even from within a call that never ends


class Stopped(SystemExit):
    """Ends a training that was asked to stop, after it has saved.

    Never with 0: the ISC reads 0 as completed.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.exit_code = 128 + signal_number


def end_in_order() -> None:
    """For a command: what asks it to end is an exception from here on, which takes half a file away."""

    def end_now(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end_now)


class StopRequest:
    """What the signals said: the first one asks, a second one, a moment later, ends the process at once.

    The handlers themselves do nothing. Python writes each signal's number to a pipe, also while the training
    is deep inside a collective, and a thread reads it there.

    Attributes:
        signal_number: the signal that asked, or 0.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._asked_at = 0.0
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
                signal.signal(number, _do_nothing)
        threading.Thread(target=self._listen, args=(reading,), name="signals", daemon=True).start()

    def _listen(self, reading: int) -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                if number in SIGNALS:
                    self._note(number)

    def _note(self, number: int) -> None:
        if not self.signal_number:
            self.signal_number, self._asked_at = number, time.monotonic()
        elif time.monotonic() - self._asked_at > ONE_WISH:
            end(128 + number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The pipe has the signal already."""


_prepares_workers = False  # whether what is forked now is a worker that `prepare_worker` prepares


@contextlib.contextmanager
def preparing_workers() -> Iterator[None]:
    """Around the start of workers that `prepare_worker` prepares: until then no signal ends them."""
    global _prepares_workers
    _prepares_workers = True
    try:
        yield
    finally:
        _prepares_workers = False


def _after_fork() -> None:
    """A child is no training: what ends it, `Process.terminate()` for one, asks the training for nothing."""
    for number in SIGNALS:
        if signal.getsignal(number) is _do_nothing:
            signal.set_wakeup_fd(-1)
            if not _prepares_workers:
                signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_after_fork)


def end_with_parent(number: signal.Signals) -> None:
    """Has this process signalled when its parent ends, whatever ended that (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def end_with_launcher() -> None:
    """Asks this process to stop when torchrun is gone, which could not do so any more (Linux).

    Whether it is gone already must be looked at after this.
    """
    if sys.platform == "linux":
        end_with_parent(signal.SIGTERM)


def prepare_worker(worker_id: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: a worker lives exactly as long as its training.

    A signal to the whole process group must not take the data away from a training that still has a step to
    finish; only the training itself may end a worker, even one that waits for a storage that does not answer.
    And a training that is killed must not leave workers behind (Linux; elsewhere they notice later). Where no
    signal tells who has sent it (macOS), a worker ignores them all, and `_end_workers` ends it.
    """
    faulthandler.register(SHOW_STACKS, all_threads=True)
    if sys.platform != "linux":
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return
    end_with_parent(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    training = multiprocessing.parent_process()
    assert training is not None  # a worker is a process of multiprocessing's
    threading.Thread(target=_await_end, args=(training.pid,), name="signals", daemon=True).start()
    if training.pid != os.getppid():  # the server of "forkserver" is its parent, and lives as long as it does
        threading.Thread(target=_end_with, args=(training,), name="training", daemon=True).start()


def _await_end(training: int) -> None:
    while signal.sigwaitinfo(SIGNALS).si_pid != training:
        pass  # somebody else has sent it
    os._exit(0)  # as torch's own workers do: another code would be reported as a failure


def _end_with(training: multiprocessing.process.BaseProcess) -> None:
    training.join()
    os._exit(0)


@atexit.register
def _end_workers() -> None:
    """Ends the workers that ignore a SIGTERM: multiprocessing would send one and then wait for ever."""
    if sys.platform == "linux":
        return
    if workers := _workers():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report them as failed
    for worker in workers:
        worker.kill()


def _workers() -> list[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.daemon]


def _stacks() -> str:
    """Where each thread of this process stands. Written straight to a log that nobody reads any more it would
    hold up all threads, and whoever is to end the process too.
    """
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read().decode(errors="replace")


def show_stacks() -> None:
    """Writes where this process stands, and its data-loading workers: each of their threads, to stderr.

    For a process that is about to end: the question ends a worker that `prepare_worker` did not prepare.
    """
    sys.stderr.write(_stacks())
    sys.stderr.flush()
    for worker in _workers():
        sys.stderr.write(f"\nAnd its worker {worker.name} (pid {worker.pid}):\n")
        sys.stderr.flush()
        with contextlib.suppress(OSError):  # it may have ended by now
            os.kill(worker.pid, SHOW_STACKS)  # type: ignore[arg-type]  # it was started
        time.sleep(0.1)  # it writes by itself, and the next one after it
