"""A training for benchmarks: a model with AdamW and a Checkpointer, and the state that it saves."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from report import PROJECT, seconds_of
from torch import nn

sys.path.insert(0, str(PROJECT))

from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.environment import Environment
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions, ParallelOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.sampler import ElasticSampler

BATCH = 0.05  # seconds in which the CPU does nothing, as a GPU's does
WIDTH = 1024  # of a layer: 4 MB of weights, 12 MB of state


class Training:
    """A model, its optimizer and a Checkpointer, after one step.

    Args:
        directory: of the checkpoints.
        megabytes: of the state.
        group: the ranks; by default this process alone.
        sharded: whether the ranks share one model.
        options: of the Checkpointer.
    """

    def __init__(
        self,
        directory: Path,
        megabytes: int,
        group: Group | None = None,
        sharded: bool = False,
        **options: Any,
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.group = group or Group(Environment(), device)
        layers = max(1, round(megabytes * 1e6 / (3 * 4 * WIDTH * (WIDTH + 1))))
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
        how = ParallelOptions("fsdp" if sharded else "ddp")
        parallelize(self.model, self.group, self.first_loss, how)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        for parameter in self.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sampler = ElasticSampler(10**9, 1, 0, self.group.rank, self.group.world_size)
        run = Run(LocalStore(directory, self.group, keep=1), self.group, StopRequest(), Scalars(None))
        self.checkpointer = Checkpointer(run, self, CheckpointOptions(**options))

    def first_loss(self, model: nn.Module) -> torch.Tensor:
        """A loss of zeros."""
        loss: torch.Tensor = model(torch.zeros(1, WIDTH, device=self.group.device)).sum()
        return loss

    def state(self) -> State:
        """What the Checkpointer saves."""
        return {"model": self.model, "optimizer": self.optimizer, "sampler": self.sampler}

    def state_dicts(self) -> dict[str, Any]:
        """What all of the peers save."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def save(training: Training, until_step: float = BATCH) -> tuple[float, float]:
    """Saves as a training does, which goes on meanwhile: seconds held up, and seconds until published.

    Held up by the save itself, by what the optimizer waits for, and by the poll that publishes it; the others
    are there without a save, too.

    Args:
        training: what is saved; each of its ranks calls this.
        until_step: seconds from the save to the next step of the optimizer.
    """
    checkpointer = training.checkpointer
    training.sampler.advance()
    checkpointer.equipment.writer.submit(int).result()  # the last save's old files are deleted by now
    begun = time.perf_counter()
    held_up = seconds_of(checkpointer.save)
    while checkpointer.is_saving:
        time.sleep(until_step)
        held_up += seconds_of(checkpointer.equipment.snapshot.wait_until_copied)  # as the optimizer's step
        polled = seconds_of(checkpointer.poll)
        held_up += polled if not checkpointer.is_saving else 0.0
        until_step = 0.01  # so that what is written is published soon
    if training.group.device.type == "cuda":
        torch.cuda.synchronize()
        held_up += checkpointer.equipment.snapshot.gpu_waited()
    return held_up, time.perf_counter() - begun


def start_on_ranks(number: int) -> int:
    """Starts this program again on so many ranks, with a directory for all. Returns its exit code."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "BENCHMARK_DIRECTORY": directory}
        launcher = [sys.executable, "-m", "isc_runtime", "torchrun", "--standalone"]
        return subprocess.run(
            [*launcher, f"--nproc-per-node={number}", *sys.argv], env=environment, check=False
        ).returncode


def add_place(options: argparse.ArgumentParser) -> None:
    """Adds the options for how much is saved, and where."""
    options.add_argument("--megabytes", type=int, default=500, help="of the state")
    options.add_argument("--directory", type=Path, help="where to save; default: a temporary one")


@contextlib.contextmanager
def place_to_save(parent: Path | None) -> Iterator[Path]:
    """A directory that is removed at the end, and a process group of one, which `async_save` asks for."""
    warnings.filterwarnings("ignore")  # torch's, about its own use of itself
    directory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=parent))
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=0, world_size=1)
    try:
        yield directory
    finally:
        dist.destroy_process_group()
        shutil.rmtree(directory)
