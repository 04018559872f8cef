"""A small training in a forked process, for tests that kill it and cut its power.

The parent has imported torch already, so a trial costs milliseconds and not seconds: enough to kill at every
single system call.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

import isc_runtime.checkpointing.saving.sharded_save  # noqa: F401  # imported here once, not in every child
from isc_runtime import rng
from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.environment import Environment
from isc_runtime.logs import FORMAT, Scalars
from isc_runtime.options import CheckpointOptions, ParallelOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import SIGNALS, StopRequest
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.sampler import ElasticSampler

torch.set_num_threads(1)  # as in every child: the same sums in the same order
KINDS = {"artifact": ArtifactStore, "local": LocalStore}
ALONE = Group(Environment(), torch.device("cpu"))


@functools.cache
def stop_request(process: int) -> StopRequest:
    """The one of this process: a thread and a pipe each, which a fork does not inherit as they are."""
    return StopRequest()


def first_loss(model: nn.Module) -> torch.Tensor:
    """A loss of zeros."""
    loss: torch.Tensor = model(torch.zeros(1, 16)).sum()
    return loss


class Trainee:
    """A model with all that belongs to it, in a store of its own.

    Args:
        kind: of the store: "artifact" or "local".
        directory: of the store.
        group: the ranks.
        sharded: whether the ranks share one model.
        options: of the Checkpointer.
    """

    def __init__(
        self, kind: str, directory: Path, group: Group = ALONE, sharded: bool = False, **options: Any
    ) -> None:
        rng.seed_everything(0)
        self.model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 1))
        self.sharded = sharded and group.world_size > 1
        if self.sharded:
            parallelize(self.model, group, first_loss, ParallelOptions("fsdp"))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2)
        self.sampler = ElasticSampler(100_000, 4, 0, group.rank, group.world_size)
        self.metrics: dict[str, Any] = {"loss": 0.0}
        self.store = KINDS[kind](directory, group)
        self.group = group
        run = Run(self.store, group, stop_request(os.getpid()), Scalars(None))
        self.checkpointer = Checkpointer(run, self, CheckpointOptions(**options))
        self.checkpointer.equipment.writer.submit(int).result()  # its thread exists from here on

    def state(self) -> State:
        """What a checkpoint holds."""
        return {name: getattr(self, name) for name in ("model", "optimizer", "sampler", "metrics")}

    @property
    def step(self) -> int:
        """Steps taken since the start of the training."""
        return self.sampler.progress.step

    @property
    def failed_saves(self) -> int:
        """Failed saves in a row."""
        return self.checkpointer.failed_saves

    def train(self) -> None:
        """One step, which draws random numbers."""
        loss = self.model(torch.randn(4, 16)).square().mean()
        torch.autograd.backward(loss)
        for parameter in self.model.parameters():
            if parameter.grad is not None and not self.sharded:  # then it is exchanged already
                self.group.sum(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sampler.advance()
        self.metrics["loss"] = loss.item()

    def fingerprint(self) -> tuple[float, ...]:
        """Numbers that differ when any weight, moment or draw to come differs. All ranks call it."""
        states = self.optimizer.state.values()
        weights = [total(parameter.detach()) for parameter in self.model.parameters()]
        moments = [total(value) for state in states for value in state.values()]
        state = torch.get_rng_state()
        draw = torch.rand(1).item()
        torch.set_rng_state(state)
        return (*weights, *moments, draw)


def total(tensor: torch.Tensor) -> float:
    """The sum of all values, on all ranks the same even if each holds a shard of them."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return float(whole.double().sum())


@functools.cache
def uninterrupted(step: int) -> tuple[float, ...]:
    """The fingerprint of a training that came to `step` without an interruption."""
    with tempfile.TemporaryDirectory() as directory:
        trainee = Trainee("local", Path(directory))
        for _ in range(step):
            trainee.train()
        with trainee.checkpointer as checkpointer:
            checkpointer.save()  # so that what torch imports at the first save is there in every child
        return trainee.fingerprint()


@dataclass(frozen=True)
class Child:
    """A forked process.

    Attributes:
        pid: its process id.
        says: a file descriptor on which it tells what is acknowledged, a line each.
        log: the file with its output.
    """

    pid: int
    says: int
    log: Path

    def wait(self) -> int:
        """Its exit code, as a shell would give it."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def said(self) -> list[str]:
        """All lines up to its end."""
        with os.fdopen(self.says) as stream:
            return stream.read().splitlines()

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)


def fork(work: Callable[[Callable[[str], None]], None], log: Path) -> Child:
    """Runs `work` in a child process; it gets a function that tells the parent something at once."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading, log)
    code = 1
    try:
        signal.set_wakeup_fd(-1)  # the parent may listen to signals; a new process does not
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.close(reading)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        logging.basicConfig(stream=sys.stdout, format=FORMAT, level=logging.INFO, force=True)
        # A fork has none of its parent's threads. Torch makes a new pool at the first use after a fork, and
        # without a lock: done here, no data-loading worker can be forked while the writer's thread does it.
        torch.set_num_threads(1)
        work(functools.partial(_tell, writing))
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())


def writer_thread() -> int:
    """The id of the thread that writes checkpoints, for strace."""
    (thread,) = (t for t in threading.enumerate() if t.name.startswith("checkpoint-writer"))
    assert thread.native_id is not None
    return thread.native_id
