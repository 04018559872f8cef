"""What a node is in a rehearsal: a command in a session of its own, with the variables of the ISC."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.environment import DEVICE
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.rehearsal import warden

# What the ISC, torchrun and torch's launchers set; a rehearsal must not meet the caller's.
FOREIGN = {
    *("NNODES", "N_PROC", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "OUTPUT_PATH"),
    *("CHECKPOINT_ARTIFACT_PATH", "LOSSY_ARTIFACT_PATH", "CRUD_ARTIFACT_PATH"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PYTHONHOME"),
    "PYTHONHASHSEED",  # with the caller's, what depends on the order of a set is the same in each start here
}
# What `nvidia-smi -L` says: a line for each GPU, and below it one for each of its parts, if it is divided.
WHOLE, MIG = re.compile(r"GPU (\d+):"), re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")
IS_GPU = re.compile(r"\d+$|GPU-|MIG-")
FOREIGN_PREFIXES = ("TORCHELASTIC_", "PET_", "GROUP_", "ROLE_", "ISC_REHEARSAL")


@dataclass(frozen=True)
class Artifacts:
    """The directories that the variables name.

    Attributes:
        checkpoints: the checkpoint artifact.
        logs: the lossy artifact.
    """

    checkpoints: Path
    logs: Path

    def make(self) -> None:
        """Makes them, as the platform does before it starts an experiment."""
        for directory in (self.checkpoints, self.logs):
            directory.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Machine:
    """This machine, as the nodes see it.

    Attributes:
        token: in the environment of all processes.
        variables: the rest of their environment, but for the ISC's.
        gpus: those that ranks can have; without any they compute on the CPU.
    """

    token: str
    variables: Mapping[str, str]
    gpus: tuple[str, ...] = ()

    @classmethod
    def here(cls, python_path: list[Path], temporary: Path) -> Machine:
        """This machine, with the Python that runs this.

        Args:
            python_path: what comes first in PYTHONPATH.
            temporary: for temporary files.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in FOREIGN and not name.startswith(FOREIGN_PREFIXES)
        }
        token = uuid.uuid4().hex
        path = [*map(str, python_path), *filter(None, [kept.get("PYTHONPATH")])]
        binaries = str(Path(sys.executable).parent)
        kept |= {
            "TMPDIR": str(temporary),  # torchrun, when it is killed, leaves a directory behind
            warden.VARIABLE: token,
            "PATH": os.pathsep.join([binaries, kept.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join(path),
        }
        kept.pop("VIRTUAL_ENV", None)
        kept.pop("VENV", None)
        if Path(sys.prefix, "bin", "python").exists():  # what launch.sh looks for, in conda's, too
            kept["VENV"] = sys.prefix
        return cls(token, kept, _gpus(kept.get("CUDA_VISIBLE_DEVICES")))

    def environment(
        self, node: int, nodes: int, procs: int, port: int, artifacts: Artifacts
    ) -> dict[str, str]:
        """The environment of one node's command."""
        per_rank = max(1, (os.cpu_count() or 1) // (nodes * procs))
        own_gpus = self.gpus[node * procs : (node + 1) * procs] if self.has_gpus(nodes, procs) else ()
        return {
            "OMP_NUM_THREADS": str(per_rank),  # the nodes share this machine's cores
            **self.variables,
            **({} if own_gpus else {DEVICE: "cpu"}),
            "CUDA_VISIBLE_DEVICES": ",".join(own_gpus),
            "NNODES": str(nodes),
            "N_PROC": str(procs),
            "NODE_RANK": str(node),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "CHECKPOINT_ARTIFACT_PATH": str(artifacts.checkpoints),
            "OUTPUT_PATH": str(artifacts.checkpoints),
            "LOSSY_ARTIFACT_PATH": str(artifacts.logs),
        }

    def has_gpus(self, nodes: int, procs: int) -> bool:
        """Whether each rank can have a GPU of its own; of parts CUDA shows a process the first one only."""
        is_shown = procs == 1 or not any(name.startswith("MIG") for name in self.gpus)
        return is_shown and len(self.gpus) >= nodes * procs

    @contextlib.contextmanager
    def watched(self, *directories: Path) -> Iterator[None]:
        """While this lasts a process beside this one watches; it ends all nodes if this one is killed.

        Args:
            directories: removed then, too.
        """
        program = [sys.executable, "-I", "-S", warden.__file__, self.token, *map(str, directories)]
        process = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
        assert process.stdin is not None
        try:
            yield
        finally:
            self.end_all()
            with contextlib.suppress(BrokenPipeError):  # it was killed, too
                process.stdin.write(b"done")
                process.stdin.close()
            process.wait()

    def is_busy(self) -> bool:
        """Whether any process of the rehearsal is left."""
        return bool(warden.processes_of(self.token))

    def end_all(self) -> None:
        """Kills all processes of the rehearsal and of what they started.

        Raises:
            IscError: some do not vanish.
        """
        left = warden.end(self.token)
        if left:
            raise IscError(
                "Processes of the rehearsal cannot be killed",
                ", ".join(map(str, left)),
                "They wait for a disk or a device that does not answer: look there.",
                ExitCode.UNFIT,
            )


class Node:
    """One node, from its start.

    Args:
        number: counted from 0.
        command: for bash.
        directory: the working directory; the ISC promises none.
        environment: all of it.
        log: where both streams go.
    """

    def __init__(
        self, number: int, command: str, directory: Path, environment: dict[str, str], log: Path
    ) -> None:
        self.number = number
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """What its command ended with, as a shell says it: 128 + n after signal n. None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def ask_to_stop(self) -> None:
        """SIGTERM to all that the command has started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its session, and waits for the command. `Machine.end_all` ends what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _gpus(visible: str | None) -> tuple[str, ...]:
    """The GPUs of this machine, or the parts that a GPU was divided into (MIG), as CUDA_VISIBLE_DEVICES names
    them. CUDA itself takes what stands in that variable up to the first that is none, -1 say."""
    if visible is not None:
        return tuple(itertools.takewhile(IS_GPU.match, map(str.strip, visible.split(","))))
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ()
    found: list[tuple[str, list[str]]] = []
    for line in said.stdout.splitlines():
        if whole := WHOLE.match(line):
            found.append((whole[1], []))
        elif part := MIG.match(line):
            found[-1][1].append(part[1])
    return tuple(name for number, parts in found for name in (parts or [number]))
