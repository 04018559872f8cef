"""The baked project's train.py in forked processes: real ranks, real checkpoints, no seconds of imports."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # with tensorboard: imported here once, not in every child
import torch.utils.tensorboard

import train
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.payload import read_state
from isc_runtime.environment import Environment
from isc_runtime.ranks.reporting import reported
from isc_runtime.ranks.shards import ShardedTensors
from trainee import Child, fork

# For kills at random: a rank whose master dies before they met can only wait; torchrun would not let it wait.
PATIENCE = ("--first-timeout", "30")


@dataclass(frozen=True)
class Run:
    """A training on some ranks, begun.

    Attributes:
        children: a process for each rank.
        directory: its working directory.
    """

    children: list[Child]
    directory: Path

    def wait(self) -> list[int]:
        """The exit codes of all ranks."""
        return [child.wait() for child in self.children]

    def output(self, rank: int) -> str:
        """What a rank said so far; nothing if it has not begun."""
        file = self.directory / f"rank{rank}.txt"
        return file.read_text() if file.exists() else ""

    @property
    def log(self) -> str:
        """What the master said so far."""
        return self.output(0)

    @property
    def story(self) -> str:
        """What all ranks said so far, for a test that fails."""
        return "".join(f"\n--- rank {rank}\n{self.output(rank)}" for rank in range(len(self.children)))


def start(
    directory: Path,
    *arguments: str,
    ranks: int = 1,
    nodes: int = 1,
    before: Callable[[int], None] = lambda rank: None,
) -> Run:
    """Starts train.py with these arguments on so many ranks, in `directory`.

    Args:
        directory: it exists; logs are `rank0.txt` and so on in it.
        arguments: of train.py.
        ranks: how many.
        nodes: on how many nodes they think that they are.
        before: called in each process with its rank before train.py begins.
    """
    port = free_port()
    variables = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def work(rank: int) -> None:
        node, local_rank = divmod(rank, ranks // nodes)
        os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(local_rank), GROUP_RANK=str(node))
        if ranks == 1:
            del os.environ["LOCAL_RANK"]
        os.chdir(directory)
        before(rank)
        with reported():
            train.main(train.parse_arguments(list(arguments)), Environment.read())

    children = [
        fork(lambda tell, rank=rank: work(rank), directory / f"rank{rank}.txt")  # type: ignore[misc]
        for rank in range(ranks)
    ]
    return Run(children, directory)


def run(directory: Path, *arguments: str, ranks: int = 1) -> Run:
    """Starts it and waits for its end, which must be a good one."""
    begun = start(directory, *arguments, ranks=ranks)
    assert begun.wait() == [0] * ranks, begun.story
    return begun


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def losses(log: str) -> dict[int, str]:
    """The log's line of each step, without its speed and memory: loss, gradient norm and learning rate."""
    lines = re.findall(r"step (\d+): (loss.*)", log)
    return {
        int(step): re.sub(r"(samples_per_second|data_wait|memory_gb) \S+ *", "", text) for step, text in lines
    }


def final_state(directory: Path) -> dict[str, Any]:
    """What the newest checkpoint in `directory` holds, whole even if it is sharded."""
    newest = (directory / "checkpoints" / "resume.pth").resolve()
    if newest.is_dir():
        entry = Entry.in_folder(newest)
        return read_state(entry, entry.verify(), ShardedTensors({}))
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    return state
