"""SIGTERM or SIGUSR1 at any instant, to any rank: one last checkpoint at one agreed step, no step lost."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import PROJECT, SOAK
from isc_runtime.tests.processes import Place, rest_of, wait_for
from ranks import Run, final_state, start

ARGUMENTS = ("--epochs", "100000", "--batch-size", "64", "--save-steps", "7", "--log-steps", "1")
TRIALS = 26 * SOAK
TORCHRUN_TRIALS = 4 * SOAK


@pytest.mark.parametrize("trial", range(TRIALS))
def test_asked_to_stop(tmp_path: Path, trial: int) -> None:
    chance = random.Random(trial)
    number = chance.choice([signal.SIGTERM, signal.SIGUSR1])
    training = start(tmp_path, *ARGUMENTS, "--workers", chance.choice("001"), ranks=2)
    wait_for_start(training)  # before that a signal has its usual effect: there is nothing to save
    time.sleep(chance.choice([0.0, 0.5, 2.0]) * chance.random())
    asked = chance.choice([training.children[:1], training.children[1:], training.children])
    for child in asked:
        os.kill(child.pid, number)
    assert training.wait() == [128 + number] * 2, training.story
    check_nothing_is_lost(tmp_path, training.log, number)


def wait_for_start(training: Run) -> None:
    """Until the second stage of the validation has ended: by then all ranks listen to signals."""
    deadline = time.monotonic() + 60
    while not (training.directory / "rank0.txt").exists() or training.log.count("=" * 60) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_nothing_is_lost(directory: Path, log: str, number: int) -> None:
    """The step of the stop is in the newest checkpoint, and no step came after it."""
    stopped = re.findall(rf"Stopped by signal {number} at step (\d+)", log)
    assert len(stopped) == 1, log[-3000:]
    assert final_state(directory)["sampler"]["step"] == int(stopped[0])
    trained = [int(step) for step in re.findall(r"step (\d+): loss", log)]
    assert max(trained, default=0) == int(stopped[0])


@pytest.mark.parametrize("trial", range(4 * SOAK))
def test_a_second_signal_ends_at_once_and_the_next_run_goes_on(tmp_path: Path, trial: int) -> None:
    chance = random.Random(trial)
    training = start(tmp_path, *ARGUMENTS, ranks=2)
    wait_for_start(training)
    time.sleep(chance.uniform(0, 1))
    stalled = [chance.choice(training.children)]  # so that the first wish cannot be granted
    os.kill(stalled[0].pid, signal.SIGSTOP)
    others = [child for child in training.children if child not in stalled]
    for number in (signal.SIGTERM, signal.SIGUSR1):
        for child in others:
            os.kill(child.pid, number)
        time.sleep(2.5)
    for child in stalled:
        child.kill()
    codes = training.wait()
    assert sorted(codes) == [128 + signal.SIGKILL, 128 + signal.SIGUSR1], codes
    saved = [int(step) for step in re.findall(r"\[COMPLETE\] Checkpoint of step (\d+)", training.log)]
    again = start(tmp_path, *ARGUMENTS, ranks=2)
    wait_for_start(again)
    time.sleep(1)
    os.kill(again.children[0].pid, signal.SIGTERM)
    assert again.wait() == [128 + signal.SIGTERM] * 2
    resumed = [int(step) for step in re.findall(r"Resumed from .*: step (\d+)", again.log)]
    assert (resumed or [0])[0] >= max(saved, default=0)


@pytest.mark.parametrize("trial", range(TORCHRUN_TRIALS))
def test_asked_through_torchrun(tmp_path: Path, trial: int) -> None:
    """torchrun passes the signal on, waits, and ends as the ranks do."""
    number = [signal.SIGTERM, signal.SIGUSR1][trial % 2]
    process = Place(tmp_path, script=PROJECT / "train.py").start(*ARGUMENTS, ranks=2)
    said = wait_for(process, "step 1: loss")
    time.sleep(random.Random(trial).uniform(0, 2))
    process.send_signal(number)
    said += rest_of(process)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    check_nothing_is_lost(tmp_path, said, number)
    assert left_behind() == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_torchrun_that_is_killed_leaves_no_rank_behind(tmp_path: Path, ranks: int) -> None:
    """Nobody could end them any more: a single rank saves and stops, of several the watch ends all."""
    process = Place(tmp_path, script=PROJECT / "train.py").start(*ARGUMENTS, ranks=ranks, by_torchrun=True)
    said = wait_for(process, "step 10: loss")
    process.kill()
    said += rest_of(process)  # ends when the last rank has closed its output
    if ranks == 1:
        check_nothing_is_lost(tmp_path, said, signal.SIGTERM)
    assert left_behind() == []


def left_behind() -> list[bytes]:
    """Processes that still run this project's train.py."""
    pattern = f"{sys.executable}.*{PROJECT}/train.py"
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True).stdout.split()
