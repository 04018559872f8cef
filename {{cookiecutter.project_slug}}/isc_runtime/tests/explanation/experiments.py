"""Experiments that fail, on one node or several, and the logs that they really write.

launch.sh's parts in forks of this process, in which torch is imported already: the first checks, torchrun of
each node, and its ranks. So all that is in these logs was written by the code that writes it on the ISC.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import runpy
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch.distributed.run
from torch.distributed.launcher.api import elastic_launch

from isc_runtime.environment import Environment
from isc_runtime.preflight import SAID, check_place
from isc_runtime.ranks.launching.torchrun import torchrun
from isc_runtime.ranks.reporting import reported
from isc_runtime.sampler import ElasticSampler
from isc_runtime.tests.processes import IMPORTED_ONCE, TRAINING, Ended, Place, run_forked

SHORT = ("--epochs", "1", "--sync-save")


@dataclass
class Experiment:
    """An experiment on some nodes of this machine, with a log of each: `rank_N.txt`, as the ISC names them.

    Attributes:
        path: its directory; the artifacts and the logs are in it.
        nodes: how many.
        procs: ranks on each.
        unfit_node: the number of a node on which the variable of the checkpoints is missing.
        patience: seconds that torchrun waits for the other nodes.
        launcher: torchrun, called with its arguments: that of isc_runtime, as launch.sh does, or torch's own.
    """

    path: Path
    nodes: int = 1
    procs: int = 1
    unfit_node: int | None = None
    patience: int = 60
    launcher: Callable[[list[str]], int | None] = torchrun

    def __post_init__(self) -> None:
        self.place = Place(self.path, isc_mode=True)
        self.output = self.path / "output"
        self.output.mkdir(exist_ok=True)

    def start(self, *arguments: str, arrange: Callable[[int], None] = lambda rank: None) -> list[Ended]:
        """Runs it once, to its end; another call is another start of the same experiment.

        Args:
            arguments: of the training.
            arrange: called in each rank with its number, before the training begins.
        """
        for name in IMPORTED_ONCE:
            importlib.import_module(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def rank() -> None:
            with reported():
                arrange(int(os.environ["RANK"]))
            train(*arguments)

        def node() -> None:
            number = os.environ.pop("RANK", "0")
            self._enter(number)
            if str(self.unfit_node) == number:
                del os.environ["CHECKPOINT_ARTIFACT_PATH"]
            with reported():
                check_place(Environment.read())
            os.environ[SAID] = "said"
            command = [f"--nnodes={self.nodes}", f"--nproc-per-node={self.procs}", f"--node-rank={number}"]
            command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
            command += ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
            with ranks_in_forks(rank):
                sys.exit(self.launcher([*command, f"--rdzv-conf=timeout={self.patience}", "train.py"]))

        return run_forked(self.path, node, self.nodes)

    def _enter(self, node: str) -> None:
        for name in ("LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK"):
            os.environ.pop(name, None)
        self.place.enter()
        os.environ["NODE_RANK"] = node
        stream = (self.output / f"rank_{node}.txt").open("a", buffering=1)
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        sys.stdout = sys.stderr = stream
        for logger in [*logging.Logger.manager.loggerDict.values()]:
            for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
                if type(handler) is logging.StreamHandler:
                    handler.stream = stream  # torch's were made for the output of the tests

    def log(self, node: int = 0) -> str:
        """What a node said so far."""
        return (self.output / f"rank_{node}.txt").read_text()


def train(*arguments: str) -> None:
    """The runtime's small training, in this process to its end."""
    sys.argv = [str(TRAINING), *SHORT, *arguments]
    runpy.run_path(str(TRAINING), run_name="__main__")


@contextlib.contextmanager
def ranks_in_forks(work: Callable[[], None]) -> Iterator[None]:
    """Within, torchrun runs `work` in forks of its own process in place of a script."""

    def run(arguments: object) -> None:
        config, _, _ = torch.distributed.run.config_from_args(arguments)
        config.start_method = "fork"
        elastic_launch(config, work)()

    with mock.patch("torch.distributed.run.run", run):
        yield


def at_step(step: int, act: Callable[[], object]) -> None:
    """In this process: `act` comes after so many steps, before the step is counted."""
    advance, done = ElasticSampler.advance, [0]

    def counted(sampler: ElasticSampler) -> None:
        done[0] += 1
        if done[0] == step:
            act()
        advance(sampler)

    setattr(ElasticSampler, "advance", counted)  # noqa: B010  # mypy knows no other way
