"""What ranks say to each other, in collectives and bytes, what preflight takes, and an end: 2 to 32 ranks.

    python benchmarks/many_ranks.py [--ranks 2,4,8,16,32] [--json FILE]

The ranks are forks on this machine with a tiny model. Counted is what the training's own thread calls
of torch's collectives, for each batch, each save and in preflight, the gradients' exchange left out: bytes
that a rank gives into them, and gets out of them. Then one rank is killed: until the last one has ended.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import Report, parser, seconds_of
from torch.utils._python_dispatch import TorchDispatchMode
from training import Training

from isc_runtime.checkpointing import clock
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.preflight import open_store
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.tests.processes import run_forked

BATCHES, SAVES = 20, 3


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own are not
    """Counts collectives, and the bytes of the tensors that go into them and come out of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.calls += 1
            self.bytes += _bytes_of(args)
        return function(*args, **(kwargs or {}))


def _bytes_of(node: Any) -> int:
    if isinstance(node, torch.Tensor):
        return node.nbytes
    return sum(map(_bytes_of, node)) if isinstance(node, list | tuple) else 0


def measure(group: Group, directory: Path) -> dict[str, float]:
    """On each rank: what a batch and a save cost it."""
    found: dict[str, float] = {}
    clock.SLOW = math.inf  # where batches are slow ranks ask the master, whatever their number: not here
    begun = time.monotonic()
    with Collectives() as preflight:
        open_store(group.environment, group)
    found["seconds of preflight"] = time.monotonic() - begun
    training = Training(directory, 1, group, save_steps=10**9)
    checkpointer = training.checkpointer
    checkpointer.restore()
    for _ in range(2):  # the first pulse is special
        checkpointer.poll()
    with Collectives() as batches:
        for number in range(BATCHES):
            training.sampler.advance()
            checkpointer.is_due(number)
            checkpointer.poll()
    checkpointer.save()
    checkpointer.finish()
    begun, held_up = time.monotonic(), 0.0
    with Collectives() as saves:
        for _ in range(SAVES):
            training.sampler.advance()
            held_up += seconds_of(checkpointer.save)
            checkpointer.finish()
    found["seconds of a save"] = (time.monotonic() - begun) / SAVES
    found["seconds held up by a save"] = held_up / SAVES
    counts = {"a batch": (batches, BATCHES), "a save": (saves, SAVES), "preflight": (preflight, 1)}
    counts["a sharded save"] = (sharded_saves(group, directory.with_name("sharded")), SAVES)
    for name, (counted, times) in counts.items():
        found[f"collectives of {name}"] = counted.calls / times
        found[f"bytes of {name}"] = counted.bytes / times
    return found


def sharded_saves(group: Group, directory: Path) -> Collectives:
    """Saves of a model of which each rank has a part, after the first one, which plans them."""
    training = Training(directory, 1, group, sharded=True, save_steps=10**9)
    training.checkpointer.restore()
    training.checkpointer.save()
    training.checkpointer.finish()
    saves = Collectives()
    with saves:
        for _ in range(SAVES):
            training.sampler.advance()
            training.checkpointer.save()
            training.checkpointer.finish()
    return saves


def count(ranks: int) -> list[dict[str, float]]:
    """What `measure` found on each of so many ranks."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("checkpoints", "sharded"):
            (Path(place) / name).mkdir()

        def work() -> None:
            os.chdir(place)
            environment = Environment.read(device="cpu")
            with process_group(environment, 300, 300) as group:
                found = measure(group, Path(place) / "checkpoints")
                (Path(place) / f"{group.rank}.json").write_text(json.dumps(found))

        ended = run_forked(Path(place), work, ranks)
        if any(one.code for one in ended):
            sys.exit("\n".join(one.output for one in ended))
        return [json.loads((Path(place) / f"{rank}.json").read_text()) for rank in range(ranks)]


def seconds_until_all_have_ended(ranks: int) -> float:
    """One rank is killed, as by the OOM killer, and the others must notice it by themselves.

    No torchrun is there, which would send a signal to those of its node.
    """
    with tempfile.TemporaryDirectory() as place:
        killed = Path(place) / "killed"

        def work() -> None:
            with process_group(Environment.read(device="cpu"), 300, 300) as group:
                for step in range(10**6):
                    group.pulse(step)
                    group.sum(torch.zeros(1))
                    time.sleep(0.01)
                    if step == BATCHES and group.rank == ranks - 1:
                        killed.write_text(str(time.time()))
                        os.kill(os.getpid(), signal.SIGKILL)

        ended = run_forked(Path(place), work, ranks)
        now = time.time()
        if {one.code for one in ended[:-1]} != {int(ExitCode.PEER)}:
            sys.exit("\n".join(f"{one.code} {one.output}" for one in ended))
        return now - float(killed.read_text())


def main() -> None:
    """Counts and prints."""
    options = parser(__doc__)
    options.add_argument("--ranks", default="2,4,8,16,32")
    arguments = options.parse_args()
    report = Report("many_ranks")
    numbers = [int(number) for number in arguments.ranks.split(",")]
    others = {}
    for ranks in numbers:
        found = count(ranks)
        others[ranks] = found[1]
        for name in found[0]:
            report.figure(f"{ranks} ranks, master: {name}", found[0][name])
            report.figure(f"{ranks} ranks, another: {name}", found[1][name])
        ended = seconds_until_all_have_ended(ranks)
        report.figure(f"{ranks} ranks: seconds until all have ended after one is killed", ended)
    first, last = others[numbers[0]], others[numbers[-1]]
    # Nothing that a rank does again and again may grow, but the master's own list.
    for name in sorted(name for name in first if "of a " in name and "seconds" not in name):
        report.ratio(f"{name}, {numbers[-1]} ranks against {numbers[0]}", last[name] / first[name], most=1.05)
    report.write(arguments.json)


if __name__ == "__main__":
    main()
