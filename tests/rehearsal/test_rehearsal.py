"""The project as it is generated is ready; and a rehearsal leaves nothing behind, however it ends."""

from __future__ import annotations

import itertools
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import HAS_THE_REAL_ONE, Project, Rehearsed, processes_in

ONE_RANK = ("--nodes", "1")
IMAGES = 320  # of a dataset that a test writes


def test_two_nodes_of_two_ranks_killed_twice(project: Project) -> None:
    """The whole of it, with the default options but for the ranks: how long it takes is in the output."""
    begun = time.monotonic()
    ended = project.rehearse("--procs-per-node", "2")
    print(f"2 nodes x 2 ranks, 3 cycles: {time.monotonic() - begun:.0f} s")
    check_is_ready(ended)
    verdict = ended.verdict
    first, second, last = verdict["cycles"]
    assert [cycle["ranks"] for cycle in verdict["cycles"]] == [4, 4, 4]
    assert [cycle["ended"] for cycle in verdict["cycles"]] == ["SIGKILL", "SIGKILL", "complete, exit 0"]
    assert 0 < second["resumed_from"] <= first["last_step"]
    assert second["resumed_from"] <= last["resumed_from"] <= second["last_step"]
    assert first["steps_lost"] == first["last_step"] - second["resumed_from"]
    assert last["last_step"] == verdict["reference"]["last_step"] == verdict["compared"]["step"]
    assert verdict["compared"] == {
        "step": last["last_step"],
        "final": True,
        "identical": True,
        "differences": [],
        "repeatable": True,
    }
    assert all(cycle["shipped"] for cycle in verdict["cycles"])
    assert "final weights are bit for bit those of an uninterrupted run" in verdict["conclusion"]
    (folder,) = project.folders
    assert sorted(path.name for path in folder.iterdir()) == [
        *("cycle-1", "cycle-2", "cycle-3", "tensorboard", "uninterrupted", "verdict.json")
    ]
    assert "Resumed from" in (folder / "cycle-2" / "node_0.log").read_text()
    for node in (0, 1):  # the validation is said once for each of its stages, and only node 0 is the master
        log = (folder / "cycle-2" / f"node_{node}.log").read_text()
        for title in ("🔧 EARLY CHECKPOINT DIRECTORY VALIDATION", "🔧 CHECKPOINT DIRECTORY VALIDATION"):
            assert log.count(title) == 1, log
        assert log.count(f"Is Master Process: {node == 0}") == 2, log


def test_asked_to_stop_on_data_of_ones_own(project: Project, tmp_path: Path) -> None:
    """After SIGTERM no step is lost, and the command ends with an error, so that the ISC resumes it."""
    write_dataset(tmp_path / "data" / "uds-decorous-field-baritone-250513")
    data = ("--data-root", str(tmp_path / "data"))
    ended = project.rehearse(*ONE_RANK, "--interrupt", "term", "--cycles", "2", *data, "--", "--epochs", "24")
    check_is_ready(ended)
    first, last = ended.verdict["cycles"]
    assert last["last_step"] == 24 * IMAGES // 32
    assert first["ended"].startswith("SIGTERM, exit ")
    assert first["ended"] != "SIGTERM, exit 0"
    assert first["steps_lost"] == 0
    assert last["resumed_from"] == first["last_step"]


def test_asked_to_stop_during_an_evaluation(project: Project) -> None:
    """The next cycle begins with that evaluation, and not with a step."""
    begins = "        model = self.model.eval()\n"
    project.change("train.py", begins, f'{begins}        __import__("time").sleep(0.5)\n')
    one_step_an_epoch = ("--batch-size", "2000", "--epochs", "10")
    ended = project.rehearse(*ONE_RANK, "--interrupt", "term", "--cycles", "2", "--", *one_step_an_epoch)
    check_is_ready(ended)
    first, last = ended.verdict["cycles"]
    assert first["steps_lost"] == 0
    assert last["resumed_from"] == first["last_step"]
    (folder,) = project.folders
    evaluated = "epoch {} of 10: held-out accuracy"
    assert evaluated.format(first["last_step"]) not in (folder / "cycle-1" / "node_0.log").read_text()
    assert evaluated.format(first["last_step"]) in (folder / "cycle-2" / "node_0.log").read_text()


def write_dataset(folder: Path) -> None:
    """IMAGES images of noise to train on, and as many held-out ones, in the files of Fashion-MNIST."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        labels = bytes(index % 10 for index in range(IMAGES))
        images = random.Random(part).randbytes(IMAGES * 8 * 8)
        header = struct.pack(">4I", 0x0803, IMAGES, 8, 8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x0801, IMAGES) + labels)


def test_a_sharded_training(project: Project) -> None:
    sharded = ("--parallelism", "fsdp", "--model", "transformer", "--epochs", "3")
    ended = project.rehearse(*ONE_RANK, "--procs-per-node", "2", "--cycles", "2", "--", *sharded)
    check_is_ready(ended)
    assert ended.verdict["compared"]["identical"] is True
    assert [cycle["ended"] for cycle in ended.verdict["cycles"]] == ["SIGKILL", "complete, exit 0"]
    assert ended.verdict["cycles"][1]["resumed_from"] > 0


def test_other_ranks_in_another_place_with_syncs_within(project: Project) -> None:
    options = ("--resize", "--move", "--sync-seconds", "0.3", "--interrupt", "mixed", "--seed", "2")
    ended = project.rehearse(*options, "--", "--epochs", "8", "--save-steps", "5")
    check_is_ready(ended)
    cycles = ended.verdict["cycles"]
    ranks = [cycle["ranks"] for cycle in cycles]
    assert all(one != other for one, other in itertools.pairwise(ranks)), ranks
    assert {cycle["ended"].partition(",")[0] for cycle in cycles[:-1]} == {"SIGKILL", "SIGTERM"}
    assert sum(cycle["syncs_within"] for cycle in cycles) > 0
    assert sum(len(cycle["deleted"]) for cycle in cycles) > 0
    assert ended.verdict["reference"] is None
    assert "every sample of an epoch was seen" in ended.verdict["conclusion"]
    (folder,) = project.folders
    assert "artifacts/checkpoints-2: " in (folder / "cycle-2" / "node_0.log").read_text().replace(
        "/Atomic", ": "
    )


def check_is_ready(ended: Rehearsed) -> None:
    assert ended.code == 0, ended.said[-5000:]
    assert ended.errors == []
    assert ended.verdict["fit"] is True
    assert ended.verdict["stand_in"] is not HAS_THE_REAL_ONE
    if not HAS_THE_REAL_ONE:
        assert ended.verdict["conclusion"].endswith(
            "With the stand-in for cycling_utils, not with the real one."
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_rehearsal_that_is_ended_takes_everything_with_it(project: Project, number: signal.Signals) -> None:
    """torchrun's ranks and the workers that load their data, too; of its folder the logs are left."""
    process = project.start(
        "--procs-per-node", "2", "--nodes", "1", "--", "--epochs", "1000", "--workers", "1"
    )
    saved = "rehearsals/*/artifacts/checkpoints/*.latest_checkpoint"
    # The warden, torchrun, two ranks, two workers: in a cycle, and not between two of them.
    wait_until(lambda: [*project.path.glob(saved)] and len(processes_in(project.path)) >= 6, process)
    process.send_signal(number)
    out, said = process.communicate(timeout=30)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    assert out == ""
    assert "Traceback" not in said
    wait_until(lambda: not processes_in(project.path))  # after SIGKILL the warden does it
    (folder,) = project.folders
    wait_until(lambda: not (folder / "artifacts").exists())
    assert (folder / "cycle-1" / "node_0.log").is_file()


def wait_until(condition: object, process: subprocess.Popen[str] | None = None, seconds: float = 120) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few checkpoints."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6M", "none", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk(project: Project, small_disk: Path) -> None:
    """It is not the project that is not ready, but this place; what took the room is gone."""
    output = small_disk / "out"
    ended = project.rehearse(
        *ONE_RANK, "--cycle-seconds", "60", "--output", str(output), "--", "--save-steps", "1"
    )
    assert ended.code == 3, ended.said[-5000:]
    assert ended.verdict == {}
    assert "Traceback" not in ended.said
    assert "ERROR: The disk is full: a rehearsal needs room for 3 checkpoints, and " in ended.said
    assert "--output" in ended.said
    assert not (output / "artifacts").exists()
    assert (output / "cycle-1" / "node_0.log").is_file()
