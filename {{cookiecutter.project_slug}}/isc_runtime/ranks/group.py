"""The process group, and how its ranks agree.

Two rules keep a training from hanging. What one rank alone can fail at is done inside an agreement, so
that all ranks learn of the error and raise the same one. And beside the training a thread on each rank
watches for a rank that fell outside of any agreement, and takes this one down too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.interruption import end_with_launcher
from isc_runtime.ranks.watch import RankError, Watch, connect
from isc_runtime.ranks.watch import Store as RendezvousStore

T = TypeVar("T")
SETTLING = 0.02  # seconds; gloo's threads need some microseconds, and a turn on a busy core


@dataclass
class Group:
    """The ranks of a training; a training alone is a group of one.

    Attributes:
        environment: what the variables say of this rank.
        device: where this rank computes.
    """

    environment: Environment
    device: torch.device
    _control: dist.ProcessGroup | None = None
    _watch: Watch | None = None
    _reports: RendezvousStore | None = None  # a connection of its own: a thread waits there
    _pulse: tuple[torch.Tensor, dist.Work] | None = field(default=None, init=False)
    _last_pulse: tuple[torch.Tensor, dist.Work] | None = field(default=None, init=False)  # see _before_fork

    @property
    def rank(self) -> int:
        return self.environment.rank

    @property
    def world_size(self) -> int:
        return self.environment.world_size

    @property
    def is_master(self) -> bool:
        return self.environment.is_master

    def gather(self, value: T) -> list[T]:
        """What each rank says, in the order of ranks, on all of them. A collective."""
        if self._control is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        self._wait_on()
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. A collective."""
        return any(self.gather(flag))

    def on_each(self, function: Callable[[], T]) -> list[T]:
        """Calls `function` on each rank and returns what all returned, in the order of ranks. A collective.

        Raises:
            RankError: it raised; the first failing rank's error.
        """
        try:
            outcome: T | RankError = function()
        except Exception as error:
            outcome = RankError.of(error, self.environment)
        outcomes = self.gather(outcome)
        for failed in outcomes:
            if isinstance(failed, RankError):
                raise failed
        return outcomes  # type: ignore[return-value]  # none of them is an error

    @contextlib.contextmanager
    def agreement(self) -> Iterator[None]:
        """What one rank raises in this block, all ranks raise at its end. A collective.

        Raises:
            RankError: the first failing rank's error.
        """
        failure: RankError | None = None
        try:
            yield
        except Exception as error:
            failure = RankError.of(error, self.environment)
        for failed in filter(None, self.gather(failure)):
            raise failed from (failed.__cause__ if failed is failure else None)

    def on_master(self, function: Callable[[], T]) -> T:
        """Calls `function` on the master and returns its result on all ranks. A collective.

        Raises:
            RankError: it raised.
        """
        outcome: T | RankError | None = None
        if self.is_master:
            try:
                outcome = function()
            except Exception as error:
                outcome = RankError.of(error, self.environment)
        if self._control is not None:
            outcomes = [outcome]
            dist.broadcast_object_list(outcomes, src=0, group=self._control)
            self._wait_on()
            outcome = outcomes[0]
        if isinstance(outcome, RankError):
            raise outcome
        return outcome  # type: ignore[return-value]  # the master's T is everybody's

    def _wait_on(self) -> None:
        if self._watch is not None:
            self._watch.wait_on()

    def report(self, subject: str, value: object) -> None:
        """Tells the master something, from a background thread: no collective."""
        assert self._reports is not None
        self._reports.set(f"{subject}/{self.rank}", pickle.dumps(value).hex())

    def reports(self, subject: str) -> list[Any]:
        """Waits for what each rank has to tell of a subject. The master's, from a background thread."""
        assert self._reports is not None
        keys = [f"{subject}/{rank}" for rank in range(self.world_size)]
        self._reports.wait(keys, timedelta(days=1))  # whoever has an eye on the save gives up earlier
        values = [pickle.loads(bytes.fromhex(self._reports.get(key).decode())) for key in keys]
        for key in keys:
            self._reports.delete_key(key)
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place, of a tensor on this rank's device. A collective."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def pulse(self, *words: int) -> list[int]:
        """What the ranks said at the last pulse: for each word the largest. Call it once a batch.

        No rank waits for another here: the words travel in the background and are read a batch later,
        when the gradients' own exchange has long made sure that they have arrived.
        """
        if self._control is None:
            return list(words)
        assert self._watch is not None
        self._watch.progress()
        last = self._last_pulse = self._pulse
        tensor = torch.tensor(words)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._pulse = (tensor, work)
        if last is None:
            return [0] * len(words)
        last[1].wait()
        return last[0].tolist()


_current: Group | None = None


def current_group() -> Group:
    """The group of this process; there is one inside `process_group`."""
    assert _current is not None, "there is no process group yet"
    return _current


def _before_fork() -> None:
    """Lets gloo's threads finish with what they have done, before a data-loading worker is forked.

    Whichever thread lets go of a collective last, gloo's own or the training's, destroys its Python objects.
    When that is gloo's, the thread enters Python, and a child that is forked at this instant never starts:
    https://github.com/python/cpython/issues/112275, mended in Python 3.12 and late in 3.11. A moment after a
    collective gloo's threads have let go; those still under way, the pulses, are held here until they have.
    """
    if _current is not None and _current.world_size > 1:
        time.sleep(SETTLING)


os.register_at_fork(before=_before_fork)


def choose_device(environment: Environment) -> torch.device:
    """This rank's own GPU where there is one, the CPU otherwise.

    Raises:
        IscError: there are GPUs, but fewer than ranks on this node.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if environment.local_rank >= torch.cuda.device_count():
        raise IscError(
            f"There is no GPU for this rank: the node has {torch.cuda.device_count()}",
            f"LOCAL_RANK={environment.local_rank}",
            "Start as many processes per node as it has GPUs (N_PROC, --nproc-per-node).",
        )
    torch.cuda.set_device(environment.local_rank)
    return torch.device("cuda", environment.local_rank)


@contextlib.contextmanager
def process_group(environment: Environment, first_timeout: float, timeout: float) -> Iterator[Group]:
    """The group of all ranks that torchrun started. One falls, all fall.

    Args:
        environment: what the variables say.
        first_timeout: seconds in which the first batch must be done: start-up and compilation included.
        timeout: seconds from one batch to the next before the training is taken for hung.
    """
    global _current
    if environment.world_size == 1:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            end_with_launcher()
        _current = Group(environment, choose_device(environment))
        yield _current
        return
    get_error_handler().initialize()
    store = connect(first_timeout)
    watch = Watch(store, environment, first_timeout, timeout)
    try:
        device = choose_device(environment)
        limit = timedelta(seconds=first_timeout)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=environment.rank,
            world_size=environment.world_size,
            timeout=limit,
            device_id=device if device.type == "cuda" else None,
        )
        # A group of its own for agreements: they are about files and signals, and never wait for a GPU.
        control = dist.new_group(backend="gloo", timeout=limit)
        assert isinstance(control, dist.ProcessGroup)  # and not the mark of a rank that is not in it
        _current = Group(environment, device, control, watch, store.clone())
        yield _current
        _current.gather(None)  # nobody leaves while another may still need it
    except SystemExit as stop:
        watch.close()
        if stop.code not in (0, None):
            _end(stop.code if isinstance(stop.code, int) else ExitCode.FAILED)
        raise
    except KeyboardInterrupt:  # torchrun passes Ctrl-C on to all ranks
        watch.close()
        _end(130)
    except BaseException as error:
        _fall(error, environment, watch)
    watch.close()
    dist.destroy_process_group()


def _fall(error: BaseException, environment: Environment, watch: Watch) -> None:
    """Ends this process because of `error`, and all other ranks with it."""
    failure = watch.announce(error)
    if failure.rank == environment.rank and failure.exit_code is ExitCode.FAILED:
        traceback.print_exception(error)
    watch.report(failure)
    with contextlib.suppress(Exception):  # torchrun's summary quotes it, where torchrun asked for it
        get_error_handler().record_exception(failure)
    _end(failure.exit_code)


def _end(code: int) -> None:
    """Ends at once: a regular exit would wait for collectives that other ranks no longer take part in."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
