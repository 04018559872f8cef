"""What the environment variables say, read once and in one place."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isc_runtime.errors import IscError

LOCAL_CHECKPOINT_DIRECTORY = Path("checkpoints")
LOCAL_LOG_DIRECTORY = Path("runs")

STARTED = "ISC_RUNTIME_STARTED"  # launch.sh sets it: when it began, seconds since the epoch
IMPORTED_AT = time.time()
DEVICE = "ISC_RUNTIME_DEVICE"  # ours: a rehearsal and tests ask for the CPU by name, whatever a command says

ON_THE_ISC = (
    "The ISC sets it; elsewhere set it yourself, or unset LOSSY_ARTIFACT_PATH to train in local mode."
)


@dataclass(frozen=True)
class Environment:
    """The variables of the ISC and of torchrun. A path is `None` when its variable is not set.

    Sources: https://docs.strongcompute.com for the first three, torchrun's manual for the rest.
    """

    lossy_artifact_path: str | None = None
    checkpoint_artifact_path: str | None = None
    output_path: str | None = None
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    node_rank: int = 0
    nodes: int = 1
    restarts: int = 0  # how often torchrun itself has started the ranks again
    started_at: float = IMPORTED_AT  # when the command was, as far as it is known; seconds since the epoch
    device: str = "auto"  # of options.DEVICES
    hostname: str = field(default_factory=socket.gethostname)
    launcher: int = field(default_factory=os.getppid, compare=False)  # torchrun's process, or a shell's

    @classmethod
    def read(
        cls, variables: Mapping[str, str] | None = None, is_local: bool = False, device: str = "auto"
    ) -> Environment:
        """Reads `variables`, by default this process's own.

        Args:
            variables: by name.
            is_local: whether this is a laptop, whatever variables of the ISC are set.
            device: where to compute, unless ISC_RUNTIME_DEVICE says otherwise.

        Raises:
            IscError: a variable of torchrun is not a number.
        """
        variables = os.environ if variables is None else variables
        # Only torchrun sets LOCAL_RANK. Without it RANK, if set at all, is the node's rank on an old ISC.
        by_torchrun = "LOCAL_RANK" in variables
        artifacts: Mapping[str, str] = {} if is_local else variables
        return cls(
            lossy_artifact_path=artifacts.get("LOSSY_ARTIFACT_PATH"),
            checkpoint_artifact_path=artifacts.get("CHECKPOINT_ARTIFACT_PATH"),
            output_path=artifacts.get("OUTPUT_PATH"),
            rank=_number(variables, "RANK") if by_torchrun else 0,
            local_rank=_number(variables, "LOCAL_RANK") if by_torchrun else 0,
            world_size=_number(variables, "WORLD_SIZE") if by_torchrun else 1,
            nodes=max(1, _number(variables, "GROUP_WORLD_SIZE", is_required=False)) if by_torchrun else 1,
            restarts=_number(variables, "TORCHELASTIC_RESTART_COUNT", is_required=False),
            started_at=_started(variables),
            device=variables.get(DEVICE, device),
            node_rank=_number(variables, "GROUP_RANK" if by_torchrun else "NODE_RANK", by_torchrun),
        )

    @property
    def isc_mode(self) -> bool:
        """Whether this is the ISC: `LOSSY_ARTIFACT_PATH` is set."""
        return self.lossy_artifact_path is not None

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0, which writes the checkpoints and the log."""
        return self.rank == 0

    @property
    def needs_gpus(self) -> bool:
        """Whether nothing but a GPU for each rank will do."""
        return self.device == "cuda" or (self.device == "auto" and self.isc_mode)

    @property
    def asked_device(self) -> str:
        """Who asked for the device, for people."""
        return "a training on the ISC" if self.device == "auto" else f"--device {self.device}"

    @property
    def log_directory(self) -> Path:
        """Where TensorBoard's files go."""
        return Path(self.lossy_artifact_path) if self.lossy_artifact_path else LOCAL_LOG_DIRECTORY

    def check_mode(self) -> None:
        """Makes sure that local mode is meant, and is not the ISC with a variable missing.

        Raises:
            IscError: an artifact for checkpoints is named, and checkpoints would not go there.
        """
        named = {
            "CHECKPOINT_ARTIFACT_PATH": self.checkpoint_artifact_path,
            "OUTPUT_PATH": self.output_path,
        }
        given = [name for name, value in named.items() if value is not None]
        if given and not self.isc_mode:
            raise IscError(
                f"{' and '.join(given)} {'are' if given[1:] else 'is'} set, and LOSSY_ARTIFACT_PATH is not: "
                "checkpoints would go to a folder that the ISC throws away",
                "LOSSY_ARTIFACT_PATH",
                "The ISC sets it, so set it too; or say --local, as on a laptop: checkpoints go to "
                f"./{LOCAL_CHECKPOINT_DIRECTORY} then.",
            )

    @property
    def checkpoint_directory(self) -> Path:
        """Where a training here saves. Raises IscError, as `checkpoint_variable`."""
        return self.checkpoint_variable()[1] if self.isc_mode else LOCAL_CHECKPOINT_DIRECTORY

    def checkpoint_variable(self) -> tuple[str, Path]:
        """The variable that names the checkpoint artifact, and its directory.

        Raises:
            IscError: neither variable is set, one is empty, or the two name different directories.
        """
        named = {
            "CHECKPOINT_ARTIFACT_PATH": self.checkpoint_artifact_path,
            "OUTPUT_PATH": self.output_path,
        }
        given = {name: value for name, value in named.items() if value is not None}
        for name, value in {"LOSSY_ARTIFACT_PATH": self.lossy_artifact_path, **given}.items():
            if value == "":
                raise IscError("An environment variable is set but empty", name, ON_THE_ISC)
        if not given:
            raise IscError(
                "No environment variable says where checkpoints go", " or ".join(named), ON_THE_ISC
            )
        if len({os.path.realpath(value) for value in given.values()}) > 1:
            raise IscError(
                "Two environment variables name different checkpoint directories",
                ", ".join(f"{name}={value}" for name, value in given.items()),
                "Unset one of them, or set both to the same directory.",
            )
        name, value = next(iter(given.items()))
        return name, Path(value)


def _number(variables: Mapping[str, str], name: str, is_required: bool = True) -> int:
    value = variables.get(name, "" if is_required else "0")
    if not value.isdecimal():
        raise IscError(
            "An environment variable is not a number",
            f"{name}={value}",
            "torchrun sets RANK, LOCAL_RANK, WORLD_SIZE and GROUP_RANK together: start train.py with it, "
            "or unset LOCAL_RANK to run alone.",
        )
    return int(value)


def _started(variables: Mapping[str, str]) -> float:
    said = variables.get(STARTED, "")
    is_possible = said.isdecimal() and len(said) < 12 and int(said) <= IMPORTED_AT
    is_restart = variables.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # which began later
    return float(said) if is_possible and not is_restart else IMPORTED_AT
