"""Starts a training as a person or the ISC would: in a process of its own, in an empty directory.

Or in forks of this process, in which torch is imported already: milliseconds and not seconds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from isc_runtime.environment import DEVICE
from isc_runtime.ranks.interruption import SIGNALS
from isc_runtime.tests.cycling_utils_choice import python_path_for_children

PROJECT = Path(__file__).resolve().parents[2]
TRAINING = Path(__file__).resolve().with_name("small_training.py")
ISC_VARIABLES = ("LOSSY_ARTIFACT_PATH", "CHECKPOINT_ARTIFACT_PATH", "OUTPUT_PATH")
UNSET = "<unset>"
PATIENCE = 120.0  # seconds until a process is taken for hung
# What every training imports sooner or later, with seconds: once before the first fork, not in each of them.
IMPORTED_ONCE = ("torch._dynamo", "torch.utils.tensorboard", "isc_runtime.tests.small_training")
DATA = """
from isc_runtime.errors import ExitCode, IscError


def check_data(dataset_id, data_root):
    if dataset_id is not None and not (data_root / dataset_id).is_dir():
        raise IscError("There is no such dataset", data_root / dataset_id, "Choose another.", ExitCode.DATA)
"""


@dataclass
class Place:
    """A directory to train in, with the environment of local mode or of the ISC.

    Attributes:
        path: the working directory.
        isc_mode: whether the variables of the ISC are set.
        variables: what else is set in the environment, or, with `UNSET` as value, is not.
        script: the training; by default the runtime's own.
    """

    path: Path
    isc_mode: bool = False
    variables: dict[str, str] = field(default_factory=dict)
    script: Path = TRAINING

    def __post_init__(self) -> None:
        if self.isc_mode:
            self.checkpoints.mkdir(exist_ok=True)
            self.logs.mkdir(exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.path / ("logs" if self.isc_mode else "runs")

    def environment(self) -> dict[str, str]:
        """The caller's, without what would make another place of it."""
        inherited = {name: value for name, value in os.environ.items() if name not in ISC_VARIABLES}
        environment = {
            **inherited,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(PROJECT), *python_path_for_children()]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Asked for by name: on the ISC a training without GPUs is refused.
            DEVICE: inherited.get(DEVICE, "cpu"),
        }
        if self.isc_mode:
            environment["LOSSY_ARTIFACT_PATH"] = str(self.logs)
            environment["CHECKPOINT_ARTIFACT_PATH"] = str(self.checkpoints)
        merged = {**environment, **self.variables}
        return {name: value for name, value in merged.items() if value != UNSET}

    def start(self, *arguments: str, ranks: int = 1, by_torchrun: bool = False) -> subprocess.Popen[str]:
        """Starts the script on so many ranks; output and errors come together."""
        command = [sys.executable]
        if ranks > 1 or by_torchrun:
            command += ["-m", "isc_runtime", "torchrun", "--standalone", f"--nproc-per-node={ranks}"]
            command += ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
        return subprocess.Popen(
            [*command, str(self.script), *arguments],
            cwd=self.path,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, ranks: int = 1) -> Ended:
        """Runs it to its end."""
        process = self.start(*arguments, ranks=ranks)
        output = rest_of(process)
        return Ended(process.returncode, output)

    def train(self, *arguments: str, ranks: int = 1) -> Ended:
        """Runs it to its end, on so many ranks, in forks of this process; returns the master's end."""
        for name in IMPORTED_ONCE:
            importlib.import_module(name)

        def work() -> None:
            self.enter()
            sys.argv = [str(self.script), *arguments]
            sys.path.insert(0, str(self.script.parent))
            runpy.run_path(str(self.script), run_name="__main__")

        return run_forked(self.path, work, ranks)[0]

    def enter(self) -> None:
        """Makes this place that of the current process, a fork."""
        environment = self.environment()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(self.path)

    def newest(self) -> dict[str, Any]:
        """The state in the newest checkpoint, found through the link as a person would find it."""
        if self.isc_mode:
            file = self.checkpoints / "AtomicDirectory.latest_checkpoint" / "checkpoint.pt"
        else:
            file = self.checkpoints / "resume.pth"
        state: dict[str, Any] = torch.load(file, weights_only=True)
        return state


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        code: its exit code.
        output: what it said on both streams.
    """

    code: int
    output: str

    def steps(self, mark: str) -> list[int]:
        """The steps in the log lines that hold `mark`."""
        lines = [line for line in self.output.splitlines() if mark in line]
        return [int(match[1]) for line in lines if (match := re.search(r"\bstep (\d+)", line))]


def run_forked(directory: Path, work: Callable[[], None], ranks: int = 2) -> list[Ended]:
    """Runs `work` as the ranks of a training, in forks of this process: torch is imported already.

    Args:
        directory: takes their outputs.
        work: what each rank does.
        ranks: how many there are.

    Raises:
        AssertionError: a rank has not ended after two minutes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    outputs = [directory / f"rank{rank}.txt" for rank in range(ranks)]
    rendezvous = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", **rendezvous} if ranks > 1 else {}
        for rank in range(ranks)
    ]
    processes = [
        fork.Process(target=_as_rank, args=(*pair, work)) for pair in zip(outputs, places, strict=True)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    said = "\n".join(output.read_text() for output in outputs)
    assert not hung, f"these ranks hang: {hung}\n{said}"  # their SIGKILL is no way to end
    return [
        Ended(process.exitcode or 0, output.read_text())
        for process, output in zip(processes, outputs, strict=True)
    ]


def _as_rank(output: Path, variables: dict[str, str], work: Callable[[], None]) -> None:
    with output.open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    signal.set_wakeup_fd(-1)  # this process may listen to signals for a training; a new one does not
    for caught in SIGNALS:
        signal.signal(caught, signal.SIG_DFL)
    os.environ.update(variables)
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    work()


def copy_of_the_runtime(project: Path) -> Path:
    """Puts the runtime, launch.sh and a data.py that is not the user's into a folder, and returns that."""
    shutil.copytree(
        PROJECT / "isc_runtime",
        project / "isc_runtime",
        ignore=shutil.ignore_patterns("tests", "__pycache__"),
    )
    shutil.copy2(PROJECT / "launch.sh", project)
    (project / "data.py").write_text(DATA)
    return project


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Reads the output until a line holds `text`, for two minutes at most, and returns what was read."""
    assert process.stdout is not None
    read = ""
    patience = threading.Timer(PATIENCE, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            read += line
            if text in line:
                return read
    finally:
        patience.cancel()
    raise AssertionError(f"it ended without saying {text!r}:\n{read}")


def rest_of(process: subprocess.Popen[str]) -> str:
    """Waits for its end, for two minutes at most, and returns what was not read yet."""
    try:
        return process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two states are not equal bit for bit; not the count of saves, which are due by time, too."""
    if isinstance(one, torch.Tensor):
        return [] if isinstance(other, torch.Tensor) and torch.equal(one, other) else [path]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        parts = [(f"{path}.{key}", one[key], other[key]) for key in one if f"{path}.{key}" != ".saves"]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        parts = [(f"{path}.{i}", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [path]
    return [difference for part, a, b in parts for difference in differences(a, b, part)]
