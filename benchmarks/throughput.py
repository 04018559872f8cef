"""How much of its speed a training keeps while it saves every 20 steps, against the same without saving.

    python benchmarks/throughput.py [--megabytes 500] [--rounds 5] [--directory DIR] [--json FILE]

One process, steps of 50 ms. Either the CPU is idle in them, as while a GPU computes, or both its cores are
busy; and idle once more with the checkpoints in memory, which tells what is due to the disk. Peers, in turns:
no saves; ours; `async_save` of torch.distributed.checkpoint, each save waiting for the one before. The
optimizer's own step is left out: what it costs on a CPU has nothing to do with saving.

A save every 20 steps is more than a disk may take. So the disk's own limit is measured too, how long it takes
for so many bytes, one file after the other: faster no training can go that saves as often. And what people
do: `--save-steps auto`, which finds out how often, on the same disk with the same state.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from report import Report, parser, seconds_of, take_turns
from torch.distributed.checkpoint.state_dict_saver import async_save
from training import Training, add_place, place_to_save

from isc_runtime.checkpointing.on_disk.durable import sync_file

STEP = 0.05  # seconds
STEPS = 60  # of a block
EVERY = 20  # steps
FINDING_STEPS = 400  # in which --save-steps auto finds out how often
AUTO_ROUNDS = 2  # of blocks from one save to the next, and of as many batches without
MOST_STEPS = 5000  # of a block
MEMORY = Path("/dev/shm")


def idle() -> None:
    """A step in which the CPU does nothing."""
    time.sleep(STEP)


def busy_step() -> Callable[[], None]:
    """A step that keeps all cores busy, made as long as the other one."""
    left, right = torch.randn(512, 512), torch.randn(512, 512)

    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(left, right)

    multiply(100)  # warm
    return partial(multiply, max(1, round(STEP / (seconds_of(partial(multiply, 100)) / 100))))


def block(step: Callable[[], None], save: Callable[[], None], after_step: Callable[[], None]) -> float:
    """Seconds of some steps and the saves among them; what is still being written at the end is left out."""
    os.sync()

    def work() -> None:
        for number in range(STEPS):
            if number % EVERY == EVERY // 2:
                save()
            step()
            after_step()

    return seconds_of(work)


def sustained(directory: Path, megabytes: int) -> float:
    """Megabytes a second that the disk takes when one file after the other is written and synced."""
    content, files = bytes(megabytes * 10**6), [directory / f"sustained-{number}" for number in range(5)]
    os.sync()

    def work() -> None:
        for file in files:
            file.write_bytes(content)
            sync_file(file)

    seconds = seconds_of(work)
    for file in files:
        file.unlink()
    return len(files) * megabytes / seconds


def measure_auto(name: str, step: Callable[[], None], directory: Path, megabytes: int) -> Report:
    """The speed with `--save-steps auto`, when it has found out how often, against that without a save."""
    (directory / "checkpoints").mkdir()
    training = Training(directory / "checkpoints", megabytes)
    checkpointer = training.checkpointer
    checkpointer.restore()
    lengths: list[int] = []  # of the blocks, in batches

    def bare(steps: int) -> float:
        def work() -> None:
            for _ in range(steps):
                step()

        os.sync()
        return seconds_of(work) / steps

    def until_due(most: int) -> int:
        checkpointer.poll()  # as after an evaluation: what was before is no batch
        for number in range(1, most + 1):
            step()
            training.sampler.advance()
            checkpointer.equipment.snapshot.wait_until_copied()  # the optimizer's step calls it
            if checkpointer.is_due(training.sampler.progress.batch - 1):
                return number
            checkpointer.poll()
        raise SystemExit(f"No save was due in {most} batches: nothing was measured.")

    def auto() -> float:
        """Seconds of a batch, from the beginning of a save to where the next one is due."""
        os.sync()
        begun = time.perf_counter()
        checkpointer.save()
        lengths.append(until_due(MOST_STEPS))
        return (time.perf_counter() - begun) / lengths[-1]

    until_due(FINDING_STEPS)
    while sum(lengths) < FINDING_STEPS:
        auto()
    steps = lengths[-1]
    found = take_turns({"bare": partial(bare, steps), "auto": auto}, AUTO_ROUNDS)
    checkpointer.settle()
    report = Report("throughput")
    batches = statistics.median(lengths[-AUTO_ROUNDS:])
    report.figure(f"{name}, --save-steps auto: batches between two saves", batches)
    report.ratio(f"{name}: throughput with --save-steps auto", found["bare"] / found["auto"], least=0.98)
    shutil.rmtree(directory / "checkpoints")
    return report


def measure(
    name: str, step: Callable[[], None], directory: Path, megabytes: int, rounds: int, disk: float
) -> Report:
    """Measures one kind of step.

    Args:
        name: of the kind.
        step: does it.
        directory: where to save.
        megabytes: of the state.
        rounds: how often.
        disk: megabytes that it takes in a second.
    """
    (directory / "checkpoints").mkdir()
    training = Training(directory / "checkpoints", megabytes)
    checkpointer = training.checkpointer
    running: list[Any] = []

    def ours_save() -> None:
        training.sampler.advance()
        checkpointer.save()

    def after_step() -> None:
        checkpointer.equipment.snapshot.wait_until_copied()  # the optimizer's step calls it
        checkpointer.poll()

    def ours() -> float:
        seconds = block(step, ours_save, after_step)
        checkpointer.settle()
        checkpointer.equipment.writer.submit(int).result()
        return seconds

    def wait() -> None:
        while running:
            future = running.pop()
            getattr(future, "upload_completion", future).result()

    def async_saves() -> None:
        wait()
        running.append(async_save(training.state_dicts(), checkpoint_id=directory / "dcp"))

    def asynchronous() -> float:
        seconds = block(step, async_saves, lambda: None)
        wait()
        return seconds

    bare = partial(block, step, lambda: None, lambda: None)
    seconds = take_turns({"bare": bare, "ours": ours, "async_save": asynchronous}, rounds)
    report = Report("throughput")
    for peer, median in seconds.items():
        report.figure(f"{name}: a step, {peer}, ms", 1e3 * median / STEPS)
    shutil.rmtree(directory / "checkpoints")
    least = 0.97 if name.startswith("idle") else None
    report.ratio(f"{name}: throughput with ours", seconds["bare"] / seconds["ours"], least=least)
    report.ratio(f"{name}: throughput with async_save", seconds["bare"] / seconds["async_save"])
    # Each save but the last must be on the disk before the next one may begin, whoever writes it.
    limit = max(seconds["bare"], (STEPS // EVERY - 1) * megabytes / disk)
    report.ratio(f"{name}: of the speed that the disk allows, with ours", limit / seconds["ours"])
    return report


def main() -> None:
    """Measures and prints."""
    options = parser(__doc__)
    add_place(options)
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    report = Report("throughput")
    with place_to_save(arguments.directory) as directory:
        disk = sustained(directory, arguments.megabytes)
        report.figure("what the disk takes, MB/s", disk)
        for name, step in {"idle": idle, "busy": busy_step()}.items():
            report.add(measure(name, step, directory, arguments.megabytes, arguments.rounds, disk))
            report.add(measure_auto(name, step, directory, arguments.megabytes))
    if MEMORY.is_dir():
        with place_to_save(MEMORY) as directory:
            disk = sustained(directory, arguments.megabytes)
            report.add(
                measure("idle, in memory", idle, directory, arguments.megabytes, arguments.rounds, disk)
            )
    report.write(arguments.json)


if __name__ == "__main__":
    main()
