"""How soon a training goes on after an interruption, against a bare torchrun of the same.

    python benchmarks/start.py [--rounds 7] [--ranks 2 8] [--device cuda] [--megabytes 2000] [--json FILE]

From `bash launch.sh`, or `torchrun bare_training.py`, to the first step after a resume. The bare script has
the same model, data, optimizer and DistributedDataParallel, and resumes by `torch.load`: nothing is checked,
nothing is verified. Both start with files in the page cache and bytecode that is there already.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from goodput import descendants
from report import PROJECT, ROOT, Report, parser, take_turns

BARE = Path(__file__).with_name("bare_training.py")
FIRST_STEP = re.compile(r"\bstep (\d+):")
LEFTOVERS = shutil.ignore_patterns("checkpoints", "runs", "rehearsals", "__pycache__", ".*cache", ".venv")
# Weights that do nothing, so that there is something to restore.
BALLAST = """

_build_model = build_model


def build_model(*arguments):
    model = _build_model(*arguments)
    model.register_parameter("ballast", nn.Parameter(torch.zeros({weights})))
    model.register_forward_hook(lambda module, given, result: result + 0 * module.ballast[:1].sum())
    return model
"""


def bake(directory: Path) -> Path:
    """A project as a user has it: with bytecode. Without cookiecutter a copy of its files will do."""
    project = directory / "isc-experiment"
    if importlib.util.find_spec("cookiecutter") is None:
        shutil.copytree(PROJECT, project, ignore=LEFTOVERS)
    else:
        command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input"]
        subprocess.run([*command, "--output-dir", str(directory)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(project)], check=True)
    return project


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def until_first_step(command: list[str], directory: Path, environment: dict[str, str], ends: bool) -> float:
    """Seconds until the training says that it has made a step.

    Args:
        command: the training.
        directory: where it runs.
        environment: its variables.
        ends: whether it ends by itself; else it is killed after the step.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said, seconds = "", 0.0
    for line in process.stdout:
        said += line
        if not seconds and FIRST_STEP.search(line):
            seconds = time.monotonic() - begun
            if not ends:
                break
    if not ends:
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    if not seconds or (ends and process.returncode):
        sys.exit(f"It made no step, or failed:\n{said}")
    return seconds


def variables(ranks: int, project: Path, place: Path, device: str = "cpu") -> dict[str, str]:
    """The environment of one node: what the ISC sets, and what makes two starts alike."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"LOSSY_ARTIFACT_PATH": str(place / "logs"), "NNODES": "1", "NODE_RANK": "0"}
    environment["ISC_RUNTIME_DEVICE"] = device
    environment |= {"CHECKPOINT_ARTIFACT_PATH": str(place / "checkpoints"), "N_PROC": str(ranks)}
    environment |= {"VENV": sys.prefix, "MASTER_ADDR": "127.0.0.1"}
    # torch's store asks for the names of addresses; a name server that does not answer would add 5 s to both.
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "RES_OPTIONS": "timeout:1 attempts:1"}
    stand_in = project / "isc_runtime" / "tests" / "stand_in"  # where the real cycling_utils is not
    environment["PYTHONPATH"] = os.pathsep.join([str(project), str(stand_in)])
    return environment


def measure(ranks: int, rounds: int, project: Path, directory: Path, device: str, report: Report) -> None:
    """Trains a little with both, then lets them take turns in resuming."""
    place = directory / str(ranks)
    for name in ("checkpoints", "logs"):
        (place / name).mkdir(parents=True)
    environment = variables(ranks, project, place, device)

    def ours(*more: str, ends: bool = False) -> float:
        command = ["bash", str(project / "launch.sh"), "--log-steps", "1", *more]
        return until_first_step(command, project, environment | {"MASTER_PORT": free_port()}, ends)

    def bare(*more: str, ends: bool = False) -> float:
        command = [str(Path(sys.executable).with_name("torchrun")), "--standalone"]
        command += [f"--nproc-per-node={ranks}", str(BARE), str(place / "bare.pt"), "--device", device, *more]
        return until_first_step(command, project, environment, ends)

    for train in (ours, bare):
        train("--max-steps", "20", ends=True)
    peers: dict[str, Callable[[], float]] = {
        "ours": partial(ours, "--max-steps", "1000000", "--epochs", "100000"),
        "bare": partial(bare, "--max-steps", "1000000"),
    }
    seconds = take_turns(peers, rounds)
    report.figure(f"launch.sh on {ranks} ranks, until the first step after a resume, s", seconds["ours"])
    report.figure(f"bare torchrun on {ranks} ranks, the same, s", seconds["bare"])
    targets = {2: 0.80, 8: 0.45} if device == "cpu" else {}
    report.ratio(f"start on {ranks} ranks", seconds["ours"] / seconds["bare"], most=targets.get(ranks))


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--ranks", type=int, nargs="+", default=[2, 8])
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--megabytes", type=int, default=0, help="of state beside the model's own")
    arguments = options.parse_args()
    report = Report("start")
    with tempfile.TemporaryDirectory() as name:
        project = bake(Path(name))
        if arguments.megabytes:  # of a weight and the two averages that AdamW has of it
            with (project / "model.py").open("a") as model:
                model.write(BALLAST.format(weights=arguments.megabytes * 10**6 // 12))
        for ranks in arguments.ranks:
            measure(ranks, arguments.rounds, project, Path(name), arguments.device, report)
            shutil.rmtree(Path(name) / str(ranks))
    report.write(arguments.json)


if __name__ == "__main__":
    main()
