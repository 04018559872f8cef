"""What isc_runtime adds to a step that saves nothing: agreement, position, logging, scalars. Two ranks.

    python benchmarks/overhead.py [--steps 400] [--step-seconds 0.05] [--ranks 2] [--json FILE]

A step sleeps, as a CPU does while its GPU computes, and ends with an all_reduce of a megabyte, as that of the
gradients. Blocks of steps with and without all the rest of train.py's loop take turns.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from report import Report, parser
from training import Training, start_on_ranks

from isc_runtime.environment import Environment
from isc_runtime.logs import FORMAT, Scalars
from isc_runtime.ranks.group import Group, process_group

BLOCKS = 10  # of each kind
LOG_STEPS = 20  # train.py's default


def measure(group: Group, directory: Path, steps: int, step_seconds: float) -> Report:
    """Runs on each rank."""
    training = Training(directory, 1, group)
    scalars = Scalars(directory / "runs" if group.is_master else None)
    scalars.begin(0)
    logger = logging.getLogger("train")
    gradients = torch.zeros(2**18, device=group.device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    pulses: list[float] = []
    for block in range(2 * BLOCKS):
        is_whole = block % 2 == 1
        for number in range(steps // BLOCKS):
            begun = time.perf_counter()
            time.sleep(step_seconds)
            group.sum(gradients)
            if is_whole:
                training.sampler.advance()
                if (number + 1) % LOG_STEPS == 0:
                    loss = float(group.sum(torch.ones((), device=group.device)))
                    logger.info("epoch %d batch %d step %d: loss %.4f", 1, number, number, loss)
                    scalars.add("training/loss", loss, number)
                training.checkpointer.is_due(number)
                before = time.perf_counter()
                training.checkpointer.poll()
                pulses.append(time.perf_counter() - before)
            seconds[is_whole].append(time.perf_counter() - begun)
    # Means and not medians: what happens only every 20th step counts too.
    bare, whole = (statistics.fmean(sorted(seconds[kind])[: -steps // 50]) for kind in (False, True))
    report = Report("overhead")
    report.figure("a bare step, ms", 1e3 * bare)
    report.figure("a step with all the rest, ms", 1e3 * whole)
    report.figure("the agreement alone, ms", 1e3 * statistics.median(pulses))
    report.ratio("a step, against a bare one", whole / bare, most=1.01)
    return report


def main() -> None:
    """Starts itself on two ranks, or measures if it was started so."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--step-seconds", type=float, default=0.05)
    options.add_argument("--ranks", type=int, default=2)
    arguments = options.parse_args()
    if "LOCAL_RANK" not in os.environ:
        sys.exit(start_on_ranks(arguments.ranks))
    place = Path(os.environ["BENCHMARK_DIRECTORY"])
    with process_group(Environment.read(), 60, 60) as group, (place / "log").open("a") as log:
        level = logging.INFO if group.is_master else logging.CRITICAL
        logging.basicConfig(stream=log, format=FORMAT, level=level)
        report = measure(group, place, arguments.steps, arguments.step_seconds)
        if group.is_master:
            report.write(arguments.json)


if __name__ == "__main__":
    main()
