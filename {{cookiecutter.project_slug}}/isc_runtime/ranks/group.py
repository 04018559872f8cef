"""The process group, and how its ranks agree.

Two rules keep a training from hanging. What one rank alone can fail at is done by `each` or `master`, so that
all ranks learn of the error and raise the same one. And beside the training a thread on each rank
watches for a rank that fell outside of these, and takes this one down too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.determinism import set_determinism
from isc_runtime.ranks.device import choose_device, has_bf16
from isc_runtime.ranks.ending import end
from isc_runtime.ranks.explained import explained
from isc_runtime.ranks.interfaces import choose_interface
from isc_runtime.ranks.interruption import Stopped, end_with_launcher
from isc_runtime.ranks.mailbox import Mailbox
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.reporting import said_by_exit
from isc_runtime.ranks.watch import Watch, connect

T = TypeVar("T")
MARGIN = 10  # seconds for the watch to say better than torch who has not come
SETTLING = 0.02  # seconds; gloo's threads need some microseconds, and a turn on a busy core
# NCCL's own watchdog would abort the process (134) before the reason is known and said. Read, and not seen.
NCCL_LEAVES_THE_END_TO_US = (
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_ENABLE_MONITORING",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS",
)


@dataclass
class Group:
    """The ranks of a training; a training alone is a group of one.

    Attributes:
        environment: what the variables say of this rank.
        device: where this rank computes.
        mailbox: what ranks tell the master beside all collectives; None alone.
        watch: what notices that nothing goes on any more; None where nobody looks.
    """

    environment: Environment
    device: torch.device
    mailbox: Mailbox | None = None
    watch: Watch | None = None
    _control: dist.ProcessGroup | None = None
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

    @property
    def has_bf16(self) -> bool:  # on all ranks alike, as far as all have the same GPUs
        return has_bf16(self.device)

    def gather(self, value: T) -> list[T]:
        """What each rank says, in the order of ranks, on all of them. A collective."""
        if self._control is None:
            self._wait_on()
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        self._wait_on()
        return values

    def largest(self, *words: int) -> list[int]:
        """For each word the largest that a rank says, on all of them. A collective."""
        tensor = torch.tensor(words)
        if self._control is not None:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control)
        self._wait_on()
        return tensor.tolist()

    def to_master(self, value: T) -> list[T]:
        """What each rank says, in the order of ranks, on the master; nothing on the others. A collective.

        Unlike `gather` it costs the others the same whatever their number.
        """
        if self._control is None:
            return [value]
        said = bytearray(pickle.dumps(value))
        (size,) = self.largest(len(said))
        # What follows a pickle is not read.
        own = torch.frombuffer(said.ljust(size, b"\0"), dtype=torch.uint8)
        all_of_them = [torch.empty_like(own) for _ in range(self.world_size)] if self.is_master else None
        dist.gather(own, all_of_them, dst=0, group=self._control)
        self._wait_on()
        return [pickle.loads(tensor.numpy().tobytes()) for tensor in all_of_them or ()]

    def each(self, function: Callable[[], T]) -> T:
        """Calls `function` on each rank and returns what it returned on this one. A collective.

        Raises:
            RankError: it raised somewhere; the first failing rank's error, on all ranks.
        """
        result, failure = None, None
        try:
            result = function()
        except Exception as error:
            failure = RankError.of(error, self.environment)
        # Errors are asked for when there are some: then what ranks say grows with their number.
        for failed in filter(None, self.gather(failure) if any(self.largest(failure is not None)) else ()):
            # What was pickled has lost its cause: only the rank that failed can show the traceback.
            raise failed from (failure.__cause__ if failure and failed.rank == self.rank else None)
        return result  # type: ignore[return-value]  # without an error it has a result

    def master(self, function: Callable[[], T]) -> T:
        """Calls `function` on the master and returns its result on all ranks. A collective.

        Raises:
            RankError: it raised.
        """
        outcome: T | RankError | None = None
        failure: RankError | None = None
        if self.is_master:
            try:
                outcome = function()
            except Exception as error:
                outcome = failure = RankError.of(error, self.environment)
        if self._control is not None:
            outcomes = [outcome]
            dist.broadcast_object_list(outcomes, src=0, group=self._control)
            outcome = outcomes[0]
        self._wait_on()
        if isinstance(outcome, RankError):
            raise outcome from (failure and failure.__cause__)
        return outcome  # type: ignore[return-value]  # the master's T is everybody's

    def _wait_on(self) -> None:
        if self.watch is not None:
            self.watch.wait_on()

    def busy(self, *_: object) -> None:
        """Called again and again while this rank does something long, for which all others wait."""
        if self.watch is not None:
            self.watch.busy()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place, of a tensor on this rank's device. A collective."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        """The first rank's, on all, in place, of a tensor on this rank's device or the CPU. A collective."""
        if self.world_size > 1:
            dist.broadcast(values, 0, group=None if values.device == self.device else self._control)
        return values

    def pulse(self, *words: int) -> list[int]:
        """What the ranks said at the last pulse: for each word the largest. Call it once a batch.

        No rank waits for another here: the words travel in the background and are read a batch later,
        when the gradients' own exchange has long made sure that they have arrived.
        """
        if self.watch is not None:
            self.watch.progress()
        if self._control is None:
            return list(words)
        last = self._last_pulse = self._pulse
        tensor = torch.tensor(words)
        work = dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._pulse = (tensor, work)
        if last is None:
            return [0] * len(words)
        last[1].wait()
        return last[0].tolist()

    def leave(self, is_early: bool = False) -> None:
        """Lets go of the last pulses, on the way out, and of the watch, which looks on until then."""
        with contextlib.suppress(RuntimeError):  # the other ranks have gone already
            for pulse in filter(None, (self._last_pulse, self._pulse)):
                pulse[1].wait()
        self._last_pulse = self._pulse = None
        if self.watch is not None:
            self.watch.close(is_early)


_current: Group | None = None


def current_group() -> Group:
    """The group of this process; there is one inside `process_group`."""
    assert _current is not None, "there is no process group yet"
    return _current


def _before_fork() -> None:
    """Lets gloo's threads finish with what they have done, before a data-loading worker is forked.

    Whichever thread lets go of a collective last, gloo's own or the training's, destroys its Python objects.
    When that is gloo's, the thread enters Python, and a child that is forked at this instant never starts:
    https://github.com/python/cpython/issues/112275, fixed in Python 3.12 and late in 3.11. A moment after a
    collective gloo's threads have let go; those still under way, the pulses, are held here until they have.
    """
    if _current is not None and _current.world_size > 1:
        time.sleep(SETTLING)


os.register_at_fork(before=_before_fork)


@contextlib.contextmanager
def process_group(
    environment: Environment, first_timeout: float, timeout: float, deterministic: bool = True
) -> Iterator[Group]:
    """The group of all ranks that torchrun started. One falls, all fall.

    Args:
        environment: what the variables say.
        first_timeout: seconds in which the first batch must be done: start-up and compilation included.
        timeout: seconds from one batch to the next before the training is taken for hung.
        deterministic: whether the same inputs give the same bits, whatever that costs.
    """
    global _current
    _check_launcher(environment)
    set_determinism(deterministic)
    if environment.world_size == 1:
        watch = Watch(None, environment, first_timeout, timeout)
        _current = Group(environment, choose_device(environment), watch=watch)
        try:
            yield _current
        except RuntimeError as error:
            raise explained(error) or error  # noqa: B904  # which is its context
        finally:
            watch.close()
        return
    get_error_handler().initialize()
    store = connect(first_timeout)
    watch = Watch(store, environment, first_timeout, timeout)
    try:
        device = choose_device(environment)
        choose_interface(environment.nodes)
        for name in NCCL_LEAVES_THE_END_TO_US:  # read when the group is made
            os.environ.setdefault(name, "0")
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=environment.rank,
            world_size=environment.world_size,
            timeout=timedelta(seconds=first_timeout + MARGIN),
            device_id=device if device.type == "cuda" else None,
        )
        # A group of its own for agreements: they are about files and signals, and never wait for a GPU.
        # How long they may take the watch knows: the master may verify a checkpoint for an hour.
        control = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        assert isinstance(control, dist.ProcessGroup)  # and not the mark of a rank that is not in it
        mailbox = Mailbox(store, environment.rank, environment.world_size)
        group = _current = Group(environment, device, mailbox, watch, control)
        yield group
        group.gather(None)  # nobody leaves while another may still need it
    except (Stopped, KeyboardInterrupt) as stop:  # all ranks are, and have saved if that was possible
        watch.close()
        end(stop.exit_code if isinstance(stop, Stopped) else 130)
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code in (0, None) and _current is not None:
            _current.leave(is_early=True)
            time.sleep(SETTLING)
            raise
        watch.fall(said_by_exit(error) if isinstance(error, SystemExit) else explained(error) or error)
    group.leave()
    dist.destroy_process_group()
    time.sleep(SETTLING)  # a thread of gloo's that is in Python when Python ends would abort the process


def _check_launcher(environment: Environment) -> None:
    """A rank must not train on when torchrun is gone, which may have ended while this one imported torch."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if environment.world_size == 1:  # several have a watch for that
        end_with_launcher()
    if os.getppid() != environment.launcher:
        hint = "Without it nobody would end this process."
        raise IscError("torchrun is gone", "it ended while its ranks started", hint, ExitCode.PEER)
