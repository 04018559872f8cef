"""One falls, all fall: two threads on each rank that notice what the training itself cannot.

The training may be inside a collective that waits for a rank that is gone. One thread looks at the rendezvous
store four times a second: whoever falls leaves the reason there. The other one only looks at the clock: a
call to the store never returns when node 0, which holds it, stands still.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.collective_error import is_of_collective, true_reason, words_of
from isc_runtime.ranks.deadline import Deadline
from isc_runtime.ranks.ending import end, say
from isc_runtime.ranks.interruption import show_stacks
from isc_runtime.ranks.mailbox import Store
from isc_runtime.ranks.rank_error import RankError

INTERVAL = 0.25  # seconds between two looks at the store
HEAD_START = 2 * INTERVAL  # seconds for the rank that others wait for: its stacks tell more than theirs
GRACE = 2.0  # seconds that node 0's store has to answer once the time for a batch is over
FAILURE = "isc_runtime/failure"  # the first reason to fall
ROLL_CALL = "isc_runtime/roll-call"  # who sets it wants to know who is still there
PRESENT = "isc_runtime/present/"  # + rank: that rank's answer
HOST = "isc_runtime/host/"  # + rank
NEVER = "never came"  # what is said of such a rank
COLLECTIVES = ("torch.distributed", "torch.autograd")  # a backward pass ends with the gradients' exchange
LEFT = "isc_runtime/left"  # a rank that has ended itself with exit code 0
BUSY = "isc_runtime/busy"  # counts what a rank says that lets the others wait


def connect(timeout: float) -> Store:
    """The store through which torchrun's processes find each other.

    torchrun's own store outlives an attempt (`--max-restarts`), and with it the reason for which that one
    fell: each attempt has keys of its own.

    Raises:
        IscError: it does not answer within `timeout` seconds.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise IscError(
            f"The ranks did not find each other within {timeout:g} s ({words_of(error)})",
            f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}",
            "Node 0 must be running and must be reachable at this address from every node; the logs of the "
            "others tell why they did not come. If they need longer to start, raise --first-timeout.",
            ExitCode.PEER,
        ) from error
    return PrefixStore(f"isc_runtime/attempt/{Environment.read().restarts}", store)


def announce_early(error: Exception) -> None:
    """Leaves the reason for ranks that wait for this one in the store, before it has a watch of its own."""
    _leave(connect(timeout=5), RankError.of(error, Environment.read()))


def _leave(store: Store, failure: RankError) -> RankError:
    """Leaves a reason to fall in the store, and returns the one that was there first."""
    first = store.compare_set(FAILURE, "", pickle.dumps(failure).hex())
    left: RankError = pickle.loads(bytes.fromhex(first.decode()))
    return left


class Watch:
    """Watches the other ranks, from two threads.

    Args:
        store: through which the ranks tell each other; None alone.
        environment: what the variables say of this rank.
        first_timeout: seconds in which the first batch must be done.
        timeout: seconds from one batch to the next before the training is taken for hung.
    """

    def __init__(self, store: Store, environment: Environment, first_timeout: float, timeout: float) -> None:
        targets = [self._look_at_clock]
        if store is not None:
            # A connection serves one thread at a time: the training and the thread that looks have their own.
            self._store, self._announcing = store.clone(), store.clone()
            self._store.set(f"{HOST}{environment.rank}", environment.hostname)
            targets.append(self._look_at_store)
        self._is_alone = store is None
        self._environment = environment
        self._deadline = Deadline(first_timeout, timeout)
        self._busy_again, self._heard = 0.0, 0  # of this rank's own, of any rank's
        self._launcher = environment.launcher
        is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._hosts_store = environment.rank == 0 and store is not None and not is_agents
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=target, name="watch", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def progress(self) -> None:
        """The training goes on: called at every batch."""
        self._deadline.progress()

    def wait_on(self) -> None:
        """Something else than a batch goes on, a save for one: the time for the batch begins anew."""
        self._deadline.begin_anew()

    def busy(self) -> None:
        """Something long goes on here, and all others wait for it: their time begins anew, too."""
        if self._is_alone or time.monotonic() < self._busy_again:
            self.wait_on()
            return
        self._busy_again = time.monotonic() + 1.0  # a word a second is enough
        self.wait_on()
        with contextlib.suppress(RuntimeError):  # the thread that looks says so better
            self._announcing.add(BUSY, 1)

    def close(self, is_early: bool = False) -> None:
        """The training is over: from here on the others may leave; or it has ended itself, here at least."""
        if is_early:
            me = f"rank {self._environment.rank} on {self._environment.hostname}"
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._announcing.set(LEFT, me)
                say(f"{me}: The training ended itself (sys.exit) with exit code 0 before it was complete")
        self._closed.set()
        for thread in self._threads:  # one that is in the store when Python ends would abort the process
            thread.join(GRACE)

    def fall(self, error: BaseException) -> NoReturn:
        """Ends this process because of `error`, which the training raised, and all other ranks with it."""
        failure = RankError.of(error, self._environment)
        if is_felt := is_of_collective(error):
            failure = self._lost_contact("; node 0 does not answer", error)
        end(failure.exit_code, lambda: self._fall(error, failure, is_felt))

    def _fall(self, error: BaseException, failure: RankError, is_felt: bool) -> int:
        """Tells the others and says why; another rank that fell before is the reason then."""
        reasons = [failure]

        def announce() -> None:
            with contextlib.suppress(RuntimeError):  # the store may be gone already, and node 0 with it
                reasons.append(_leave(self._announcing, self._who_is_gone(error) if is_felt else failure))

        announcing = threading.Thread(target=announce, daemon=True)  # a frozen store never answers
        announcing.start()
        announcing.join(GRACE)
        reason = reasons[-1]
        if reason.rank == self._environment.rank and reason.exit_code is ExitCode.FAILED:
            with contextlib.suppress(OSError, ValueError):
                say("".join(traceback.format_exception(error)).rstrip())  # at once, however slow the log is
        self._say(reason)
        with contextlib.suppress(Exception):  # torchrun's summary quotes it, where torchrun asked for it
            get_error_handler().record_exception(reason)
        self._let_others_read()
        return reason.exit_code

    def _say(self, failure: RankError) -> None:
        if failure.is_reported_by(self._environment):
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe
                say(f"ERROR: {failure}")

    def _look_at_store(self) -> None:
        failure: RankError | None = None
        while failure is None and not self._closed.wait(INTERVAL):
            try:
                failure = self._look()
            except RuntimeError:  # DistError and its kin: the store is gone, and node 0 with it
                failure = self._failure(
                    "Lost contact with node 0",
                    f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}",
                    "Its log tells why it ended.",
                )
        if failure is not None and not self._closed.is_set():
            self._end(failure)

    def _look_at_clock(self) -> None:
        """The last resort: node 0 stands still, so that the store answers nobody, not even with an error.

        Alone it is all there is to look at.
        """
        while not self._closed.wait(INTERVAL):
            if self._deadline.is_over(0 if self._is_alone else GRACE):
                if _is_debugged():
                    self.wait_on()
                else:
                    self._end(
                        self._stalled("" if self._is_alone else "; node 0 does not answer"), show_stacks
                    )

    def _end(self, failure: RankError, *before: Callable[[], None]) -> NoReturn:
        end(failure.exit_code, *before, lambda: self._say(failure), self._let_others_read)

    def _let_others_read(self) -> None:
        if self._hosts_store:  # without torchrun the store ends with this process
            time.sleep(3 * INTERVAL)

    def _look(self) -> RankError | None:
        if self._store.check([FAILURE]):
            failure: RankError = pickle.loads(bytes.fromhex(self._store.get(FAILURE).decode()))
            # whoever failed goes first, so that torchrun names it as the cause
            self._closed.wait(0 if failure.rank == self._environment.rank else INTERVAL)
            return failure
        if self._store.check([ROLL_CALL]):
            self._store.set(f"{PRESENT}{self._environment.rank}", "")
        if (heard := self._store.add(BUSY, 0)) != self._heard:
            self._heard = heard
            self.wait_on()
        if os.getppid() != self._launcher:
            return self._launcher_is_gone()
        if self._deadline.is_over(HEAD_START if _waits_for_others() else 0):
            absent = self._absent(self._store)
            with contextlib.suppress(OSError, ValueError):
                show_stacks()
            return _leave(self._store, self._stalled(absent))
        return None

    def _stalled(self, absent: str) -> RankError:
        """No batch was finished in time."""
        what = f"No batch was finished within {self._deadline.limit:g} s{absent}"
        option, one = ("--first-timeout", "the first") if self._deadline.is_first else ("--timeout", "a")
        if absent.endswith(NEVER):
            hint = f"Its log tells why; if it needs longer to start, raise {option}."
        else:
            hint = (
                "Above is where this rank stands. A collective that only some ranks call looks like this; "
                f"if {one} batch really takes that long, raise {option}."
            )
        return self._failure(what, "", hint)

    def _who_is_gone(self, error: BaseException) -> RankError:
        """A collective failed: because a rank is gone, or else the collective itself knows why."""
        if absent := self._absent(self._announcing):
            if self._announcing.check([LEFT]):
                who = self._announcing.get(LEFT).decode()
                return self._failure(f"{who} ended itself with exit code 0", "", "Let all end so, or none.")
            return self._lost_contact(absent, error)
        return RankError.of(true_reason(error), self._environment)

    def _lost_contact(self, absent: str, error: BaseException) -> RankError:
        """A rank is gone, or it fell, and its reason counts when it arrives."""
        if os.getppid() != self._launcher:  # the other one has seen that first, and ended
            return self._launcher_is_gone()
        return self._failure(
            f"Lost contact with another rank{absent}",
            "",
            f"It was killed or its machine is gone: its log and torchrun's tell which ({words_of(error)}).",
        )

    def _launcher_is_gone(self) -> RankError:
        return self._failure("torchrun is gone", "", "Without it nobody would end this process.")

    def _absent(self, store: Store) -> str:
        """Calls the roll and names the ranks that do not answer."""
        store.set(f"{PRESENT}{self._environment.rank}", "")
        store.set(ROLL_CALL, "")
        time.sleep(3 * INTERVAL)
        ranks = range(self._environment.world_size)
        absent = [rank for rank in ranks if not store.check([f"{PRESENT}{rank}"])]
        never = [rank for rank in absent if not store.check([f"{HOST}{rank}"])]
        if never:
            return f"; rank{'s' * (len(never) > 1)} {', '.join(map(str, never))} {NEVER}"
        names = [f"rank {rank} on {store.get(f'{HOST}{rank}').decode()}" for rank in absent]
        return f"; no answer from {', '.join(names)}" if names else ""

    def _failure(self, what: str, where: str, hint: str) -> RankError:
        return RankError.of(IscError(what, where, hint, ExitCode.PEER), self._environment)


def _waits_for_others() -> bool:
    """Whether the training stands in a collective, and not in its own data or computation."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(COLLECTIVES):
            return True
        frame = frame.f_back
    return False


def _is_debugged() -> bool:
    """Whether a person looks at the training in a debugger, which takes as long as it takes."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals.get("__name__") in ("bdb", "pdb", "pydevd", "debugpy"):
            return True
        frame = frame.f_back
    return False
