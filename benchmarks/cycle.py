"""How much of what a machine could train remains when it is killed every 15 seconds, start-up included.

    python benchmarks/cycle.py [--cycles 20] [--seconds 15] [--steps 0.05 1.0] [--json FILE]

Two ranks are started, and killed without notice so many seconds later, again and again: by `launch.sh`, and
the usual recipe (`torch.save` every 100 steps, plain torchrun). What counts are the steps in the last
checkpoint. The physical limit is what the bare script, which neither checks nor saves, comes to in as many
cycles if none of its steps is lost. A step is a pause of the CPU and the project's small model.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from goodput import descendants
from report import Report, parser
from start import BARE, bake, free_port, variables

RANKS = 2
ENDLESS = ("--max-steps", "1000000")
STEP = re.compile(r"^step (\d+):", re.MULTILINE)


class Trainings:
    """The trainings that take turns, in one place.

    Args:
        directory: theirs.
        step: seconds of a step.
        seconds: of a cycle.
    """

    def __init__(self, directory: Path, step: float, seconds: float) -> None:
        directory.mkdir()
        self._directory, self._seconds = directory, seconds
        for name in ("checkpoints", "logs"):
            (directory / name).mkdir()
        self._project = bake(directory)
        model = self._project / "model.py"
        first = f"    __import__('time').sleep({step})\n    images, labels = batch\n"
        model.write_text(model.read_text().replace("    images, labels = batch\n", first, 1))
        assert first in model.read_text()
        compiled = [sys.executable, "-m", "compileall", "-q", str(model)]
        subprocess.run(compiled, check=True)
        self._environment = variables(RANKS, self._project, directory)

    def ours(self) -> None:
        """One cycle of the project as it is."""
        command = ["bash", str(self._project / "launch.sh"), *ENDLESS, "--epochs", "100000"]
        self._cycle([*command, "--mtbf-seconds", f"{self._seconds:g}"])

    def recipe(self, *more: str, checkpoint: str = "bare.pt") -> str:
        """One cycle of the usual recipe; returns what it said."""
        command = [str(Path(sys.executable).with_name("torchrun")), "--standalone"]
        command += [f"--nproc-per-node={RANKS}", str(BARE), str(self._directory / checkpoint)]
        return self._cycle([*command, *ENDLESS, *(more or ("--save-steps", "100"))])

    def limit(self) -> int:
        """The steps that the bare script makes in one cycle."""
        said = self.recipe("--save-steps", "0", checkpoint="none.pt")
        return max(map(int, STEP.findall(said)), default=0)

    def saved(self) -> tuple[int, int]:
        """The steps in the last checkpoint of ours, and of the recipe."""
        manifest = self._directory / "checkpoints" / "AtomicDirectory.latest_checkpoint" / "manifest.json"
        bare = self._directory / "bare.pt"
        return (
            json.loads(manifest.read_text())["step"] if manifest.exists() else 0,
            torch.load(bare, weights_only=True)["step"] if bare.exists() else 0,
        )

    def _cycle(self, command: list[str]) -> str:
        with (self._directory / "log").open("w+") as log:
            process = subprocess.Popen(
                command,
                cwd=self._project,
                env=self._environment | {"MASTER_PORT": free_port()},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            time.sleep(self._seconds)
            ended = process.poll()
            for pid in descendants(process.pid) if ended is None else ():
                os.kill(pid, signal.SIGKILL)
            process.wait()
            log.seek(0)
            said = log.read()
        if ended is not None:
            sys.exit(f"It ended by itself with {ended}:\n{said}")
        return said


def measure(step: float, cycles: int, seconds: float, directory: Path, report: Report) -> None:
    """Lets the three take turns; the limit every fourth time only, for it does not go on."""
    trainings, limits = Trainings(directory, step, seconds), []
    for number in range(cycles):
        trainings.ours()
        trainings.recipe()
        if number % 4 == 0:
            limits.append(trainings.limit())
    ours, recipe = trainings.saved()
    limit = statistics.mean(limits) * cycles
    what = f"steps of {1e3 * step:g} ms"
    report.figure(f"{what}: the physical limit", limit)
    report.figure(f"{what}: ours", ours)
    report.figure(f"{what}: the usual recipe", recipe)
    report.ratio(f"{what}: ours, against the limit", ours / limit, least=0.9)
    report.ratio(f"{what}: the usual recipe, against the limit", recipe / limit)


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--cycles", type=int, default=20)
    options.add_argument("--seconds", type=float, default=15.0, help="of a cycle")
    options.add_argument("--steps", type=float, nargs="+", default=[0.05, 1.0], help="seconds of a step")
    arguments = options.parse_args()
    report = Report("cycle")
    report.figure("cycles", arguments.cycles)
    report.figure("seconds of a cycle", arguments.seconds)
    with tempfile.TemporaryDirectory() as name:
        for step in arguments.steps:
            place = Path(name) / f"{step:g}"
            measure(step, arguments.cycles, arguments.seconds, place, report)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
