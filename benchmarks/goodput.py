"""How much of its time a training that is killed again and again spends on steps that count.

    python benchmarks/goodput.py [--kills 8] [--mean-seconds 30] [--megabytes 50] [--seed 0] [--json FILE]

Two ranks, steps of 50 ms, `--save-every auto` told the mean time between kills, which fall at exponentially
distributed times after the first step. Seconds before the first step are not counted: they are the same for
all ways of saving. Peer: the same training, neither interrupted nor saving, before and after.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from report import PROJECT, Report, parser
from training import Training

from isc_runtime.environment import Environment
from isc_runtime.options import AUTO
from isc_runtime.ranks.group import process_group

STEP = 0.05  # seconds


def train(directory: Path, megabytes: int, mtbf_seconds: float, saves: bool) -> None:
    """One rank's training, until it is killed. The master notes each step and when it ended."""
    with process_group(Environment.read(), 60, 60) as group:
        training = Training(
            directory / "checkpoints", megabytes, group, save_steps=AUTO, mtbf_seconds=mtbf_seconds
        )
        checkpointer = training.checkpointer
        checkpointer.restore()
        gradients = torch.zeros(2**18)
        with (directory / "steps").open("a", buffering=1) as steps:
            while True:
                time.sleep(STEP)
                group.sum(gradients)
                checkpointer.equipment.snapshot.wait_until_copied()  # the optimizer's step calls it
                training.sampler.advance()
                if saves and checkpointer.is_due(training.sampler.progress.step):
                    checkpointer.save()
                checkpointer.poll()
                if group.is_master:
                    print(training.sampler.progress.step, time.monotonic(), file=steps)


def cycle(directory: Path, arguments: list[str], seconds: float) -> list[tuple[int, float]]:
    """Trains for so many seconds after the first step, then kills all. Returns each step and its end."""
    file = directory / "steps"
    file.write_text("")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "BENCHMARK_DIRECTORY": str(directory)}
    launcher = [sys.executable, "-m", "isc_runtime", "torchrun", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*launcher, sys.argv[0], *arguments],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not file.read_text() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    for group in {os.getpgid(pid) for pid in descendants(process.pid)}:
        os.killpg(group, signal.SIGKILL)
    process.wait()
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(int(line[0]), float(line[1])) for line in lines if len(line) == 2]


def descendants(pid: int) -> list[int]:
    """A process and all that came from it: torchrun gives each rank a session of its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in descendants(int(child)))]


def main() -> None:
    """Kills and measures, or trains if it was started as a rank."""
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=8)
    options.add_argument("--mean-seconds", type=float, default=30.0)
    options.add_argument("--megabytes", type=int, default=50, help="of the state")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--without-saves", action="store_true", help="for the peer's ranks")
    arguments = options.parse_args()
    if "LOCAL_RANK" in os.environ:
        place = Path(os.environ["BENCHMARK_DIRECTORY"])
        return train(place, arguments.megabytes, arguments.mean_seconds, not arguments.without_saves)
    chance, report = random.Random(arguments.seed), Report("goodput")
    pauses = [chance.expovariate(1 / arguments.mean_seconds) for _ in range(arguments.kills)]
    cycles: list[list[tuple[int, float]]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "checkpoints").mkdir()
        peers = [peer_step(directory, arguments.mean_seconds)]
        for pause in (*pauses, 1.0):  # the last one shows what the last kill left
            cycles.append(cycle(directory, sys.argv[1:], pause))
        peers.append(peer_step(directory, arguments.mean_seconds))
    # Steps that count are those from which a later cycle went on; the first step of each is its start-up's.
    counted = sum(later[0][0] - 1 - done[0][0] for done, later in pairwise(cycles))
    seconds = sum(done[-1][1] - done[0][1] for done in cycles[:-1])
    lost = [done[-1][0] - (later[0][0] - 1) for done, later in pairwise(cycles)]
    undisturbed = sum(peers) / len(peers)
    report.figure("kills", len(pauses))
    report.figure("seconds of training", seconds)
    report.figure("steps lost at a kill, mean", sum(lost) / len(lost))
    report.figure("a step of the peer, ms", 1e3 * undisturbed)
    report.ratio("goodput", counted * undisturbed / seconds, least=0.95)
    report.write(arguments.json)
    return None


def peer_step(directory: Path, seconds: float) -> float:
    """Seconds of a step of a training that does not save, on average."""
    done = cycle(directory, [*sys.argv[1:], "--without-saves"], seconds)
    return (done[-1][1] - done[0][1]) / (len(done) - 1)


if __name__ == "__main__":
    main()
