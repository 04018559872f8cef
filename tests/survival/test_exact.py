"""A resumed training is the same training, bit for bit: from every step, and after any number of kills."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from conftest import SOAK
from isc_runtime.tests.processes import differences
from ranks import PATIENCE, final_state, losses, run, start

# 15 batches an epoch, 60 in all; a batch comes in parts, and ends unevenly at the end of an epoch
ARGUMENTS = ("--epochs", "4", "--accumulate", "2", "--log-steps", "1", "--keep-checkpoints", "0")
CASES = {"alone": (1, "96", "0"), "alone, workers": (1, "96", "2"), "two ranks, workers": (2, "48", "1")}
KILLS = 10 * SOAK  # of each case


@pytest.fixture(scope="module", params=CASES)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, tuple[str, ...]]:
    """An uninterrupted training that keeps a checkpoint of every step."""
    ranks, batch_size, workers = CASES[request.param]
    arguments = (*ARGUMENTS, "--batch-size", batch_size, "--workers", workers)
    directory = tmp_path_factory.mktemp("whole")
    run(directory, *arguments, "--save-steps", "1", ranks=ranks)
    return directory, ranks, arguments


def test_a_resume_from_every_step(whole: tuple[Path, int, tuple[str, ...]], tmp_path: Path) -> None:
    original, ranks, arguments = whole
    expected = losses((original / "rank0.txt").read_text())
    assert len(expected) == 60
    payloads = sorted((original / "checkpoints").glob("checkpoint_*.pth"), key=step_of)
    for payload in payloads[:-1]:
        directory = tmp_path / payload.stem
        (directory / "checkpoints").mkdir(parents=True)
        for file in (payload, payload.with_suffix(".manifest.json")):
            shutil.copy(file, directory / "checkpoints")
        resumed = run(directory, *arguments, "--save-steps", "1000", ranks=ranks)
        again = losses(resumed.log)
        assert again == {step: text for step, text in expected.items() if step > step_of(payload)}
        assert differences(without_count(directory), without_count(original)) == [], payload.name
        shutil.rmtree(directory)
    print(f"{ranks} ranks: resumed from {len(payloads) - 1} checkpoints, all bit-identical")


def step_of(payload: Path) -> int:
    return int(payload.stem.rpartition("_")[2])


def without_count(directory: Path) -> dict[str, object]:
    """The final state without the number of saves, which is not the same when some are left out."""
    state = final_state(directory)
    del state["saves"]
    return state


def test_random_kills(whole: tuple[Path, int, tuple[str, ...]], tmp_path: Path) -> None:
    original, ranks, arguments = whole
    chance = random.Random(str(original.name))
    begun = time.monotonic()
    run(make(tmp_path / "timed"), *arguments, "--save-steps", "4", ranks=ranks)
    seconds = time.monotonic() - begun
    kills = completed = 0
    while kills < KILLS:
        directory = make(tmp_path / f"killed{completed}")
        while True:
            training = start(directory, *arguments, *PATIENCE, "--save-steps", "4", ranks=ranks)
            time.sleep(chance.uniform(0, seconds * 0.7))
            victims = training.children[: chance.choice([1, ranks])]
            chance.shuffle(victims)
            for child in victims:
                os.kill(child.pid, signal.SIGKILL)
            codes = training.wait()
            if codes == [0] * ranks:
                break
            kills += 1
        completed += 1
        assert differences(without_count(directory), without_count(original)) == []
    print(f"{ranks} ranks: {kills} kills in {completed} trainings, all bit-identical at the end")


def make(directory: Path) -> Path:
    """A new directory."""
    directory.mkdir()
    return directory
