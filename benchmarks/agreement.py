"""What the agreement between ranks costs a training: steps with `Group.pulse` against steps without it.

    python benchmarks/agreement.py [--steps 200] [--step-seconds 0.05] [--json FILE]

Two ranks on this machine. A step sleeps (as a CPU does while its GPU computes) and ends with an all_reduce
of a megabyte, as a training's gradients do. Blocks of steps with and without the pulse alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = 10  # of each kind


def measure(steps: int, step_seconds: float) -> dict[str, float]:
    """Runs on each rank; returns medians in seconds a step."""
    import torch

    from isc_runtime.distributed import process_group
    from isc_runtime.environment import Environment

    seconds: dict[bool, list[float]] = {False: [], True: []}
    pulses: list[float] = []
    with process_group(Environment.read(), 60, 60) as group:
        gradients = torch.zeros(2**18)
        for block in range(2 * BLOCKS):
            with_pulse = block % 2 == 1
            for _ in range(steps // BLOCKS):
                begun = time.perf_counter()
                time.sleep(step_seconds)
                group.sum(gradients)
                if with_pulse:
                    before = time.perf_counter()
                    group.pulse(0, -1)
                    pulses.append(time.perf_counter() - before)
                seconds[with_pulse].append(time.perf_counter() - begun)
    return {
        "bare_step_seconds": statistics.median(seconds[False]),
        "step_seconds": statistics.median(seconds[True]),
        "pulse_seconds": statistics.median(pulses),
        "ratio": statistics.median(seconds[True]) / statistics.median(seconds[False]),
    }


def main() -> None:
    """Starts itself on two ranks, or measures if it was started so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-seconds", type=float, default=0.05)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if "LOCAL_RANK" not in os.environ:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "{{cookiecutter.project_slug}}")}
        environment["PYTHONDONTWRITEBYTECODE"] = environment["OMP_NUM_THREADS"] = "1"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        sys.exit(subprocess.run([*launcher, *sys.argv], env=environment, check=False).returncode)
    result = measure(arguments.steps, arguments.step_seconds)
    if os.environ["RANK"] == "0":
        print(f"a step without agreement  {1e3 * result['bare_step_seconds']:.3f} ms")
        print(f"a step with it            {1e3 * result['step_seconds']:.3f} ms")
        print(f"the call itself           {1e3 * result['pulse_seconds']:.3f} ms")
        print(f"ratio                     {result['ratio']:.4f}")
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
