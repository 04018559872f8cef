"""What takes minutes: many ranks, a large state, a node that comes late. Run by `make soak`, not by CI."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ranks
from conftest import PROJECT, SOAK
from isc_runtime.tests.processes import Place, differences, rest_of
from trainee import KINDS, Trainee, fork

pytestmark = pytest.mark.skipif(SOAK == 1, reason="takes minutes: make soak")

RANKS = 16
KILLS = 3  # of each kind of parallelism
SIXTEEN = ("--epochs", "2", "--batch-size", "6", "--save-steps", "3", "--keep-checkpoints", "0")
LATE = 60  # seconds
PARTS = {"a": 600_000_000, "b": 150_000_000}  # float32: 3 GB, the first one more than 2 GB

Tell = Callable[[str], None]


def final_state(directory: Path) -> dict[str, Any]:
    """What the newest checkpoint holds, without the number of saves."""
    state = ranks.final_state(directory)
    del state["saves"]
    return state


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_sixteen_ranks_are_killed_at_random(tmp_path: Path, parallelism: str) -> None:
    """One of them, some or all: what is left goes on, and ends bit for bit as if nobody had been killed."""
    arguments = (*SIXTEEN, "--parallelism", parallelism, "--first-timeout", "120")
    chance = random.Random(parallelism)
    whole = tmp_path / "whole"
    whole.mkdir()
    begun = time.monotonic()
    ranks.run(whole, *arguments, ranks=RANKS)
    seconds = time.monotonic() - begun
    kills = completed = 0
    while kills < KILLS:
        directory = tmp_path / str(completed)
        directory.mkdir()
        while True:
            training = ranks.start(directory, *arguments, ranks=RANKS)
            time.sleep(chance.uniform(0.2, 0.9) * seconds)
            for child in chance.sample(training.children, chance.choice([1, 3, RANKS])):
                os.kill(child.pid, signal.SIGKILL)
            if training.wait() == [0] * RANKS:
                break
            kills += 1
        completed += 1
        assert differences(final_state(directory), final_state(whole)) == []
    print(f"{RANKS} ranks, {parallelism}: {kills} kills, {completed} trainings bit-identical at their end")


def large(value: float) -> dict[str, torch.Tensor]:
    """A state of 3 GB."""
    return {name: torch.full((size,), value) for name, size in PARTS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_three_gigabytes(tmp_path: Path, kind: str) -> None:
    """Saved, killed in the middle of the next save, resumed, saved again."""
    directory = tmp_path / "checkpoints"
    directory.mkdir()

    def save_and_begin_another(tell: Tell) -> None:
        trainee = Trainee(kind, directory)
        trainee.metrics["large"] = large(1.0)
        for number in range(2):
            trainee.train()
            trainee.metrics["large"]["b"].fill_(number + 1.0)
            begun = time.monotonic()
            trainee.checkpointer.save()
            tell(f"held up {time.monotonic() - begun:.2f}")
            trainee.checkpointer.finish()
            tell(f"saved {trainee.step} in {time.monotonic() - begun:.1f}")

    first = fork(save_and_begin_another, tmp_path / "log")
    with os.fdopen(first.says) as says:
        said = [says.readline() for _ in range(3)]
        assert said[1].startswith("saved 1 "), (tmp_path / "log").read_text()
        wait_for_half_a_payload(directory)
        first.kill()
        assert says.readline() == "", "it was not killed within its save"
    assert first.wait() == 137

    def go_on(tell: Tell) -> None:
        trainee = Trainee(kind, directory)
        trainee.metrics["large"] = {}
        begun = time.monotonic()
        trainee.checkpointer.restore()
        tell(f"restored in {time.monotonic() - begun:.1f}")
        assert trainee.step == 1
        for name, size in PARTS.items():
            lowest, highest = trainee.metrics["large"][name].aminmax()
            assert (len(trainee.metrics["large"][name]), float(lowest), float(highest)) == (size, 1.0, 1.0)
        trainee.train()
        trainee.checkpointer.save()
        trainee.checkpointer.finish()
        assert trainee.failed_saves == 0
        (newest,) = trainee.store.entries()[-1:]
        assert newest.verify().step == 2

    second = fork(go_on, tmp_path / "log2")
    said += second.said()
    assert second.wait() == 0, (tmp_path / "log2").read_text()
    print(f"3 GB, {kind}: {'; '.join(line.strip() for line in said)} s")


def wait_for_half_a_payload(directory: Path) -> None:
    """Until a file that has not got its name yet holds a gigabyte."""
    deadline = time.monotonic() + 120
    while True:
        sizes = [path.stat().st_size for path in directory.glob(".isc-run-*/**/*") if path.is_file()]
        if max(sizes, default=0) > 2**30:
            return
        assert time.monotonic() < deadline, "no second save"
        time.sleep(0.02)


def test_a_node_that_comes_a_minute_late(tmp_path: Path) -> None:
    """launch.sh of both nodes, on one artifact: the first one waits, and both train."""
    place = Place(tmp_path, isc_mode=True)
    variables = {"NNODES": "2", "N_PROC": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ranks.free_port()}
    nodes = []
    for number in range(2):
        environment = {**place.environment(), **variables, "NODE_RANK": str(number), "VENV": sys.prefix}
        nodes.append(
            subprocess.Popen(
                ["bash", str(PROJECT / "launch.sh"), "--epochs", "1"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        if number == 0:
            time.sleep(LATE)
            assert nodes[0].poll() is None
    said = [rest_of(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "".join(said)
    assert "Training is complete" in said[0]
    print(f"a node that comes {LATE} s late: waited for")
