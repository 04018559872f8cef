"""What saving, starting and the loop cost on a GPU, with a state of 2 GB in its memory.

    python benchmarks/cuda.py [--megabytes 2000] [--if-there-is-one] [--json FILE]

Runs the benchmarks of these, on one GPU or, where ranks need one each, on two; notes what each of them finds
in benchmarks/results/cuda-<card>.json, and writes it into the table. Not yet run: no GPU was at hand.
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
from run_all import write_tables

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=int, default=2000, help="of the state")
    options.add_argument("--if-there-is-one", action="store_true", help="no GPU is no error")
    arguments = options.parse_args()
    if not torch.cuda.is_available():
        print(f"There is no GPU that torch {torch.__version__} can use.")
        sys.exit(0 if arguments.if_there_is_one else 1)
    state, ranks = ["--megabytes", str(arguments.megabytes)], str(min(2, torch.cuda.device_count()))
    programs = {
        "saving": [*state, "--rounds", "3"],
        "overhead": ["--ranks", ranks],
        "start": [*state, "--rounds", "3", "--ranks", ranks, "--device", "cuda"],
    }
    card = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    report, failed = Report("cuda"), []
    with tempfile.TemporaryDirectory() as folder:
        for name, more in programs.items():
            print(f"\n{name}", flush=True)
            file = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), *more, "--json", str(file)]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
                continue
            found = json.loads(file.read_text())
            report.figures |= {f"{name}: {what}": value for what, value in found["figures"].items()}
            report.ratios |= {f"{name}: {what}": ratio for what, ratio in found["ratios"].items()}
            report.write(arguments.json or HERE / "results" / f"cuda-{card}.json")  # what is known by now
    if arguments.json is None and report.figures:
        write_tables()
    if failed:
        sys.exit(f"{', '.join(failed)} failed: above is why.")


if __name__ == "__main__":
    main()
