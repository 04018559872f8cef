"""How soon train.py refuses a place that is not fit, and shows its help, against Python's own start-up.

    python benchmarks/refusal.py [--runs 15] [--json FILE]

The commands alternate; figures are medians of wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}" / "train.py")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "train.py refuses": [TRAIN],
    "train.py --help": [TRAIN, "--help"],
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as directory:
        # ISC mode without a checkpoint directory: what a first submission gets wrong
        environment = {**os.environ, "LOSSY_ARTIFACT_PATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("CHECKPOINT_ARTIFACT_PATH", None)
        environment.pop("OUTPUT_PATH", None)
        for _ in range(arguments.runs):
            for name, command in COMMANDS.items():
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, *command],
                    cwd=directory,
                    env=environment,
                    capture_output=True,
                    check=False,
                )
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        share = median / medians["import torch"]
        print(f"{name:18} {median:.3f} s   {share:.3f} of importing torch")
    if arguments.json:
        arguments.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
