"""One falls, all fall: a thread on each rank that notices what the training itself cannot.

The training may be inside a collective that waits for a rank that is gone. This thread looks at the
rendezvous store twice a second: whoever falls leaves the reason there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.interruption import show_stacks

Store = Any  # torch's type stubs neither export it nor know its `clone`
INTERVAL = 0.25  # seconds between two looks at the store
GRACE = 2.0  # seconds that node 0's store has to answer once the time for a batch is over
FAILURE = "isc_runtime/failure"  # the first reason to fall
ROLL_CALL = "isc_runtime/roll-call"  # who sets it wants to know who is still there
PRESENT = "isc_runtime/present/"  # + rank: that rank's answer
HOST = "isc_runtime/host/"  # + rank


class RankError(IscError):
    """An error of one rank, as all ranks know it.

    Attributes:
        rank: where it happened.
        hostname: the machine of that rank.
        node_rank: the node of that rank.
    """

    def __init__(
        self,
        what: str,
        where: object,
        hint: str,
        exit_code: ExitCode,
        rank: int,
        hostname: str,
        node_rank: int,
    ) -> None:
        super().__init__(what, where, hint, exit_code)
        self.args = (what, str(where), hint, exit_code, rank, hostname, node_rank)
        self.rank = rank
        self.hostname = hostname
        self.node_rank = node_rank

    @classmethod
    def of(cls, error: BaseException, environment: Environment) -> RankError:
        """`error`, with the rank it happened on."""
        if isinstance(error, cls):
            return error
        if isinstance(error, IscError):
            what, where, hint, exit_code = error.what, error.where, error.hint, error.exit_code
        elif isinstance(error, OSError) and error.strerror:
            where = error.filename2 or error.filename or ""  # of a link or a rename: the new name
            what, hint, exit_code = error.strerror, "", ExitCode.UNFIT
        else:
            what, where, hint, exit_code = f"{type(error).__name__}: {error}", "", "", ExitCode.FAILED
        result = cls(
            what, where, hint, exit_code, environment.rank, environment.hostname, environment.node_rank
        )
        result.__cause__ = error
        return result

    def is_reported_by(self, environment: Environment) -> bool:
        """Whether that process prints it: the one that failed, and one on each other node, for its log."""
        return environment.rank == self.rank or (
            environment.node_rank != self.node_rank and environment.local_rank == 0
        )

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.hostname}: {super().__str__()}"


def connect(timeout: float) -> Store:
    """The store through which torchrun's processes find each other.

    Raises:
        IscError: it does not answer within `timeout` seconds.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise IscError(
            f"The rendezvous of the ranks failed ({type(error).__name__})",
            f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}",
            "Node 0 must be running and must be reachable at this address from every node.",
            ExitCode.PEER,
        ) from error
    return store


def announce_early(error: Exception) -> None:
    """Leaves the reason for ranks that wait for this one in the store, before it has a watch of its own."""
    failure = RankError.of(error, Environment.read())
    connect(timeout=5).compare_set(FAILURE, "", pickle.dumps(failure).hex())


class Watch:
    """Watches the other ranks, from a thread.

    Args:
        store: through which the ranks tell each other.
        environment: what the variables say of this rank.
        first_timeout: seconds in which the first batch must be done.
        timeout: seconds from one batch to the next before the training is taken for hung.
    """

    def __init__(self, store: Store, environment: Environment, first_timeout: float, timeout: float) -> None:
        self._store = store.clone()  # a connection of its own: the training blocks the other one
        self._store.set(f"{HOST}{environment.rank}", environment.hostname)
        self._environment = environment
        self._timeout = timeout
        self._deadline = time.monotonic() + first_timeout
        self._limit = first_timeout
        self._launcher = os.getppid()
        self._hosts_store = environment.rank == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ
        self._closed = threading.Event()
        self._report_lock, self._reported = threading.Lock(), False
        self._lock = threading.Lock()  # the store's connection serves one thread at a time
        targets = (self._run, self._run_without_store)
        self._threads = [threading.Thread(target=target, name="watch", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def progress(self) -> None:
        """The training goes on: called at every batch."""
        self._limit = self._timeout
        self._deadline = time.monotonic() + self._timeout

    def wait_on(self) -> None:
        """Something else than a batch goes on, a save for one: the time for the batch begins anew."""
        self._deadline = max(self._deadline, time.monotonic() + self._limit)

    def announce(self, error: BaseException) -> RankError:
        """Tells all ranks why this one falls; if another fell before, that one's reason counts."""
        if _is_communication(error):  # that is how another rank's end is felt
            error = self._lost_contact()
        failure = RankError.of(error, self._environment)
        with contextlib.suppress(RuntimeError), self._lock:  # the store may be gone already
            first = self._store.compare_set(FAILURE, "", pickle.dumps(failure).hex())
            failure = pickle.loads(bytes.fromhex(first.decode()))
            if failure.rank == self._environment.rank and self._hosts_store:
                time.sleep(3 * INTERVAL)  # without torchrun the store ends with this process: let them read
        return failure

    def report(self, failure: RankError) -> None:
        """Prints the reason, if this process is to, and once: the training and this watch may both see it."""
        with self._report_lock:
            if failure.is_reported_by(self._environment) and not self._reported:
                sys.stderr.write(f"ERROR: {failure}\n")  # one write: other ranks write to the same log
                sys.stderr.flush()
            self._reported = True

    def close(self) -> None:
        """The training is over: from here on the others may leave."""
        self._closed.set()
        for thread in self._threads:  # one that is in the store when Python ends would abort the process
            thread.join(GRACE)

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL):
            try:
                failure = self._look()
            except RuntimeError:  # DistError and its kin: the store is gone, and node 0 with it
                failure = self._failure(
                    "Lost contact with node 0",
                    f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}",
                    "Its log tells why it ended.",
                )
            if failure is not None and not self._closed.is_set():
                self._fall(failure)

    def _run_without_store(self) -> None:
        """The last resort: node 0 stands still, so that the store answers nobody, not even with an error."""
        while not self._closed.wait(INTERVAL):
            if time.monotonic() > self._deadline + GRACE:
                self._fall(self._stalled_failure("; node 0 does not answer"))

    def _fall(self, failure: RankError) -> None:
        self.report(failure)
        os._exit(failure.exit_code)

    def _look(self) -> RankError | None:
        with self._lock:
            if self._store.check([FAILURE]):
                failure: RankError = pickle.loads(bytes.fromhex(self._store.get(FAILURE).decode()))
                # whoever failed goes first, so that torchrun names it as the cause
                self._closed.wait(0 if failure.rank == self._environment.rank else INTERVAL)
                return failure
            if self._store.check([ROLL_CALL]):
                self._store.set(f"{PRESENT}{self._environment.rank}", "")
        if os.getppid() != self._launcher:
            return self._failure("torchrun is gone", "", "Without it nobody would end this process.")
        if time.monotonic() > self._deadline:
            return self._stalled()
        return None

    def _stalled(self) -> RankError:
        """No batch was finished in time."""
        with self._lock:
            absent = self._absent()
        return self.announce(self._stalled_failure(absent))

    def _stalled_failure(self, absent: str) -> RankError:
        show_stacks()
        return self._failure(
            f"No batch was finished within {self._limit:g} s{absent}",
            "",
            "Above is where this rank stands. A collective that only some ranks call looks like this; "
            "if a batch really takes that long, raise --timeout.",
        )

    def _lost_contact(self) -> RankError:
        """A collective failed. Either a rank is gone, or it fell, and its reason counts when it arrives."""
        try:
            with self._lock:
                absent = self._absent()
        except RuntimeError:
            absent = "; node 0 does not answer"
        return self._failure(
            f"Lost contact with another rank{absent}",
            "",
            "It was killed or its machine is gone: its log and torchrun's tell which.",
        )

    def _absent(self) -> str:
        """Calls the roll and names the ranks that do not answer. The lock is held."""
        self._store.set(f"{PRESENT}{self._environment.rank}", "")
        self._store.set(ROLL_CALL, "")
        time.sleep(3 * INTERVAL)
        ranks = range(self._environment.world_size)
        absent = [rank for rank in ranks if not self._store.check([f"{PRESENT}{rank}"])]
        names = [f"rank {rank} on {self._store.get(f'{HOST}{rank}').decode()}" for rank in absent]
        return f"; no answer from {', '.join(names)}" if names else ""

    def _failure(self, what: str, where: str, hint: str) -> RankError:
        return RankError.of(IscError(what, where, hint, ExitCode.PEER), self._environment)


def _is_communication(error: BaseException) -> bool:
    """Whether a collective failed, which is how another rank's end is felt."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error).lower() or "NCCL" in str(error))
    )
