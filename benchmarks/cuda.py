"""What saving, starting and the loop cost on a GPU, with a state of 2 GB in its memory.

    python benchmarks/cuda.py [--megabytes 2000] [--json FILE]

Runs the benchmarks of these and writes what they find into benchmarks/results/cuda-<card>.json, from where
run_all.py takes it into the table. Without a GPU it says so and ends. Not yet run: no GPU was at hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from report import Report, parser

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=2000, help="of the state")
    arguments = options.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"There is no GPU that torch {torch.__version__} can use.")
    programs = {"saving": ["--megabytes", str(arguments.megabytes)], "start": []}
    if torch.cuda.device_count() > 1:  # its ranks need one each
        programs["overhead"] = []
    card = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    report = Report("cuda")
    with tempfile.TemporaryDirectory() as folder:
        for name, more in programs.items():
            file = Path(folder) / f"{name}.json"
            subprocess.run([sys.executable, HERE / f"{name}.py", *more, "--json", file], check=True)
            found = json.loads(file.read_text())
            report.figures |= {f"{name}: {what}": value for what, value in found["figures"].items()}
            report.ratios |= {f"{name}: {what}": ratio for what, ratio in found["ratios"].items()}
    report.write(arguments.json or HERE / "results" / f"cuda-{card}.json")


if __name__ == "__main__":
    main()
