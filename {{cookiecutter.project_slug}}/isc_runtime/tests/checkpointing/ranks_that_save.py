"""A small training on two ranks, whole or in shards, to see what becomes of its saves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.saving.shard_writer import ShardWriter, Written
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.environment import Environment
from isc_runtime.logs import Scalars, configure_logging
from isc_runtime.options import CheckpointOptions, ParallelOptions
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.ranks.reporting import reported
from isc_runtime.sampler import ElasticSampler

WAYS = pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])


def first_loss(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.zeros(2, 8)).sum()
    return loss


class Training:
    """A linear model and its optimizer, and a Checkpointer.

    Args:
        store: where its checkpoints live.
        group: its ranks.
        parallelism: "ddp" or "fsdp", or all that can be said of it.
        options: of the Checkpointer.
    """

    def __init__(
        self, store: Store, group: Group, parallelism: str | ParallelOptions = "ddp", **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(8, 8)
        how = ParallelOptions(parallelism) if isinstance(parallelism, str) else parallelism
        self.replica = parallelize(self.model, group, first_loss, how)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.sampler = ElasticSampler(1000, 4, 0, group.rank, group.world_size)
        self.store, self.group = store, group
        run = Run(store, group, StopRequest(), Scalars(None))
        self.checkpointer = Checkpointer(run, self, CheckpointOptions(**options))

    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "sampler": self.sampler}

    def step(self) -> None:
        """A batch."""
        torch.autograd.backward(self.replica(torch.randn(4, 8)).square().mean())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sampler.advance()

    def change_weights(self, own_shard: bool = False) -> None:
        """As nothing but the optimizer's step should: as if they were clipped by hand.

        Args:
            own_shard: what is changed is this rank's part of a sharded weight, not the weight as a whole.
        """
        with torch.no_grad():
            weight = self.model.weight
            (weight.to_local() if own_shard and isinstance(weight, DTensor) else weight).mul_(0.5)

    def published(self) -> int | None:
        """The step of the checkpoint that the link names, as another program would find it."""
        link = self.store.directory / self.store.link_name
        latest = self.store.latest() if link.is_symlink() else None
        return None if latest is None else latest.read_manifest().step


class Gate:
    """Holds up what writes in the background until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        """Lets it go on."""
        self._open.set()

    def before_payload(self, store: Store) -> None:
        """Holds up the master's part of each save in this store."""
        write = store.write

        def late(state: dict[str, Any], payload: Path) -> None:
            self._open.wait(30)
            write(state, payload)

        store.write = late  # type: ignore[method-assign]

    def before_shards(self) -> None:
        """Holds up this rank's shards, in this process."""
        write = ShardWriter.write

        def late(self: ShardWriter, copies: Mapping[str, Tensor]) -> Written:
            gate.wait(30)
            return write(self, copies)

        gate = self._open
        ShardWriter.write = late  # type: ignore[method-assign]


def poll_until_saved(training: Training, seconds: float = 20.0) -> bool:
    """Calls nothing but poll, as between two batches; on all ranks equally often.

    Returns:
        Whether the save has ended in this time.
    """
    for _ in range(round(seconds / 0.01)):
        training.checkpointer.poll()
        if not training.checkpointer.is_saving:
            return True
        time.sleep(0.01)
    return False


def on_each_rank(
    directory: Path, parallelism: str | ParallelOptions, work: Callable[[Training], None], **options: Any
) -> None:
    """Makes a training of all ranks and works with it; what fails is reported and ends this process."""
    with reported(), process_group(Environment.read(), 60, 60) as group:
        configure_logging(group.is_master)
        work(Training(LocalStore(directory, group), group, parallelism, **options))
        print(f"rank {group.rank} came to its end")
