"""How soon train.py refuses a place that is not ready, and a project is checked, against Python's start-up.

    python benchmarks/refusal.py [--rounds 15] [--json FILE]

Wall time of whole processes, which take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from report import PROJECT, Report, parser, seconds_of, take_turns

TRAIN = str(PROJECT / "train.py")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "train.py refuses": [TRAIN],
    "train.py --help": [TRAIN, "--help"],
    "isc_runtime check": ["-m", "isc_runtime", "check"],
    "isc_runtime checkpoints": ["-m", "isc_runtime", "checkpoints", "."],
}


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=15)
    arguments = options.parse_args()
    report = Report("refusal")
    with tempfile.TemporaryDirectory() as directory:
        # ISC mode without a checkpoint directory: what a first submission gets wrong
        environment = {**os.environ, "LOSSY_ARTIFACT_PATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = str(PROJECT)
        environment.pop("CHECKPOINT_ARTIFACT_PATH", None)
        environment.pop("OUTPUT_PATH", None)

        def run(command: list[str]) -> None:
            subprocess.run(
                [sys.executable, *command], cwd=directory, env=environment, capture_output=True, check=False
            )

        peers: dict[str, Callable[[], float]] = {
            name: partial(seconds_of, partial(run, command)) for name, command in COMMANDS.items()
        }
        seconds = take_turns(peers, arguments.rounds)
    for name in ("python -c pass", "import torch"):
        report.figure(f"{name}, s", seconds[name])
    for name in ("train.py refuses", "train.py --help"):
        report.ratio(f"{name}, seconds", seconds[name], most=0.15)
        report.ratio(f"{name}, against import torch", seconds[name] / seconds["import torch"], most=0.125)
    for name in ("isc_runtime check", "isc_runtime checkpoints"):
        report.ratio(f"{name}, seconds", seconds[name], most=0.3)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
