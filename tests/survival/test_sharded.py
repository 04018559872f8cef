"""A sharded training (--parallelism fsdp) survives what a replicated one does.

Kills, errors of the disk, damage, preemption: on two ranks and more, whose shards make one checkpoint. And it
goes on from a checkpoint of the other kind, and of another number of ranks. (Kills at every system call are
in test_kill_every_call.py.)
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import ranks
from conftest import SOAK
from isc_runtime.checkpointing.on_disk.export import export
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.ranks.group import process_group
from isc_runtime.tests.processes import differences
from strace import attach, mutating_calls, needs_strace
from test_faults import ERRORS, needs_root, published
from test_power_cut import FILE_SYSTEMS, Disk
from trainee import KINDS, Child, Trainee, fork, writer_thread

TRIALS = 100 * SOAK  # of damage, of each kind of store
KILLS = 5 * SOAK
CUTS = 5 * SOAK  # of the power, of each file system

# 15 batches an epoch of two ranks
TRAINING = ("--model", "transformer", "--log-steps", "1", "--keep-checkpoints", "0", "--batch-size", "48")
SHARDED = (*TRAINING, "--parallelism", "fsdp")


def final_state(directory: Path) -> dict[str, Any]:
    """What the newest checkpoint holds, without the number of saves."""
    state = ranks.final_state(directory)
    del state["saves"]
    return state


def checkpoints(directory: Path) -> list[Path]:
    """The folders of all sharded checkpoints, oldest first."""
    found = [path for path in (directory / "checkpoints").glob("checkpoint_*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("_")[2]))


def copied(checkpoint: Path, directory: Path) -> Path:
    """A new training directory that holds this checkpoint alone."""
    (directory / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoint, directory / "checkpoints" / checkpoint.name)
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training on two ranks that keeps every checkpoint."""
    directory = tmp_path_factory.mktemp("whole")
    ranks.run(directory, *SHARDED, "--epochs", "2", "--save-steps", "3", "--accumulate", "2", ranks=2)
    return directory


def test_a_resume_from_every_checkpoint(whole: Path, tmp_path: Path) -> None:
    expected = ranks.losses((whole / "rank0.txt").read_text())
    assert len(expected) == 30
    found = checkpoints(whole)
    assert len(found) >= 9
    for checkpoint in found[:-1]:
        step = int(checkpoint.name.rpartition("_")[2])
        directory = copied(checkpoint, tmp_path / checkpoint.name)
        arguments = (*SHARDED, "--epochs", "2", "--save-steps", "1000", "--accumulate", "2")
        resumed = ranks.run(directory, *arguments, ranks=2)
        assert ranks.losses(resumed.log) == {at: text for at, text in expected.items() if at > step}
        assert differences(final_state(directory), final_state(whole)) == [], checkpoint.name
    print(f"sharded: resumed from {len(found) - 1} checkpoints, all bit-identical")


def test_it_is_the_training_that_it_is_without_shards(tmp_path: Path) -> None:
    """The same losses, but for the order in which numbers are added."""
    seen = []
    for parallelism in ("ddp", "fsdp"):
        directory = tmp_path / parallelism
        directory.mkdir()
        training = ranks.run(directory, *TRAINING, "--epochs", "1", "--parallelism", parallelism, ranks=2)
        lines = ranks.losses(training.log).values()
        seen.append([float(number) for line in lines for number in re.findall(r"[\d.]+(?:e[-+]\d+)?", line)])
    assert len(seen[0]) == 3 * 15
    assert seen[0] == pytest.approx(seen[1], rel=2e-3)


def test_checkpoints_of_both_kinds_and_any_number_of_ranks_are_resumed(tmp_path: Path) -> None:
    """Each run goes on where the last one has ended, whatever that one was."""
    runs = [("ddp", 2), ("fsdp", 3), ("fsdp", 2), ("ddp", 1), ("fsdp", 4), ("ddp", 2)]
    ended = 0
    for epoch, (parallelism, number) in enumerate(runs, start=1):
        arguments = (*TRAINING, "--parallelism", parallelism, "--epochs", str(epoch))
        training = ranks.run(tmp_path, *arguments, ranks=number)
        resumed = re.findall(r"Resumed from \S+: step (\d+)", training.log.rpartition("VALIDATION")[2])
        assert resumed == ([str(ended)] if epoch > 1 else [])
        newest = (tmp_path / "checkpoints" / "resume.pth").resolve()
        assert newest.is_dir() == (parallelism == "fsdp")
        ended = final_state(tmp_path)["sampler"]["step"]
    accuracies = [float(text) for text in re.findall(r"held-out accuracy ([\d.]+)", training.log)]
    assert accuracies[-1] > max(accuracies[0], 0.5)


def test_its_weights_are_exported_whole(whole: Path, tmp_path: Path) -> None:
    exported = export(whole / "checkpoints", tmp_path / "weights.safetensors")
    weights = load_file(exported.file)
    assert exported.step == 30
    assert differences(weights, dict(final_state(whole)["model"])) == []


def test_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    directory = copied(checkpoints(whole)[-1], tmp_path / "other")
    arguments = ("--model", "convnet", "--parallelism", "fsdp", "--epochs", "3")
    training = ranks.start(directory, *arguments, ranks=2)
    assert training.wait() == [ExitCode.CHECKPOINT] * 2
    assert "The checkpoint is of another training: its 'model' does not fit" in training.log


def test_random_kills(whole: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    arguments = (*SHARDED, *ranks.PATIENCE, "--epochs", "2", "--save-steps", "3", "--accumulate", "2")
    kills = 0
    while kills < KILLS:
        directory = tmp_path / str(kills)
        directory.mkdir()
        while True:
            training = ranks.start(directory, *arguments, ranks=2)
            time.sleep(chance.uniform(0.5, 4))
            victims = training.children[: chance.choice([1, 2])]
            chance.shuffle(victims)
            for child in victims:
                os.kill(child.pid, signal.SIGKILL)
            if training.wait() == [0, 0]:
                break
            kills += 1
        assert differences(final_state(directory), final_state(whole)) == []
    print(f"sharded: {kills} kills, all bit-identical at the end")


@pytest.mark.parametrize("trial", range(3 * SOAK))
def test_asked_to_stop(tmp_path: Path, trial: int) -> None:
    chance = random.Random(trial)
    arguments = (*SHARDED, "--epochs", "100000", "--save-steps", "7")
    training = ranks.start(tmp_path, *arguments, ranks=2)
    deadline = time.monotonic() + 60
    while not (tmp_path / "rank0.txt").exists() or "step 1: loss" not in training.log:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2 * chance.random())
    os.kill(chance.choice(training.children).pid, signal.SIGTERM)
    assert training.wait() == [128 + signal.SIGTERM] * 2, training.story
    (stopped,) = re.findall(r"Stopped by signal 15 at step (\d+)", training.log)
    assert final_state(tmp_path)["sampler"]["step"] == int(stopped)


@pytest.fixture(scope="module", params=KINDS)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A store with two checkpoints of a training on two ranks, of steps 1 and 2."""
    kind, place = request.param, tmp_path_factory.mktemp("good")
    saving(kind, place, saves=2)
    return kind, place / "checkpoints"


@contextlib.contextmanager
def one_of_two(rank: int, port: str, kind: str, directory: Path, **options: Any) -> Iterator[Trainee]:
    """A small training that this process and another one share."""
    variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "GROUP_RANK": "0"}
    os.environ.update(variables, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with process_group(Environment.read(), 60, 60) as group:
        yield Trainee(kind, directory, group, sharded=True, **options)


def saving(
    kind: str, place: Path, saves: int, struck: int = -1, thread: str = "writer", inject: str = ""
) -> list[str]:
    """Saves so many times on two ranks, and injects an error into the second save of one rank's thread.

    Returns:
        What the master said: after each save the step that is published.
    """
    directory, port = place / "checkpoints", ranks.free_port()
    directory.mkdir(parents=True)
    reading, writing = os.pipe()

    def work(tell: Callable[[str], None], rank: int) -> None:
        with one_of_two(rank, port, kind, directory, keep_checkpoints=0) as trainee:
            for number in range(saves):
                trainee.train()
                if number == 1 and rank == struck:
                    tell(f"thread {writer_thread() if thread == 'writer' else os.getpid()}")
                    os.read(reading, 1)
                trainee.checkpointer.save()
                trainee.checkpointer.finish()
                if number == 1 and rank == struck:
                    tell("saved")
                    os.read(reading, 1)
                if trainee.group.is_master:
                    tell(f"published {published(trainee)}")
                trainee.group.gather(None)

    children = [fork(lambda tell, rank=rank: work(tell, rank), place / f"log{rank}") for rank in (0, 1)]  # type: ignore[misc]
    said = [os.fdopen(child.says) for child in children]
    heard: list[str] = []
    if struck >= 0:
        for line in iter(said[struck].readline, ""):
            if line.startswith("thread"):
                strace = attach(int(line.split()[1]), place / "trace", inject)
                os.write(writing, b"g")
            elif line == "saved\n":
                strace.terminate()
                strace.wait()
                os.write(writing, b"g")
                break
            else:
                heard.append(line.strip())
    assert [child.wait() for child in children] == [0, 0], (place / "log0").read_text()
    rest = [[line.strip() for line in stream] for stream in said]
    for descriptor in (reading, writing):
        os.close(descriptor)
    return heard + rest[0]


@needs_strace
@pytest.mark.parametrize(("struck", "thread"), [(0, "writer"), (1, "writer"), (0, "main")])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_at_every_call_of_a_save(kind: str, struck: int, thread: str, tmp_path: Path) -> None:
    """The save fails on both ranks, nothing is left of it, the training goes on, the next save succeeds."""
    expected = ["published 1", "published 2", "published 3"]
    assert saving(kind, tmp_path / "whole", 3, struck, thread) == expected
    calls = mutating_calls(tmp_path / "whole" / "trace", tmp_path / "whole" / "checkpoints")
    needed = {"openat", "write", "fsync"} if thread == "writer" else {"mkdir", "symlink", "rename"}
    assert needed <= {call.name for call in calls}
    for number, call in enumerate(calls):
        error = ERRORS[number % len(ERRORS)]
        place = tmp_path / str(number)
        said = saving(kind, place, 3, struck, thread, f"{call.name}:error={error}:when={call.number}")
        log = (place / "log0").read_text()
        where = f"{error} at {call}:\n{log}"
        assert said[0] == "published 1", where
        assert said[1] in ("published 1", "published 2"), where
        assert said[2] == "published 3", where
        # An error after the link was made: it is reported, and the checkpoint is there all the same.
        assert "[FAILED]" in log or said[1] == "published 2", where
        assert "Traceback" not in log, where
        left = [path.name for path in (place / "checkpoints").rglob("*")]
        assert left.count("manifest.json") == len([name for name in left if name == "checkpoint.pt"]), where
        assert not [name for name in left if name.endswith((".tmp", ".temp"))], where
        shutil.rmtree(place)
    print(f"sharded, {kind}: an error at {len(calls)} calls of rank {struck}'s {thread} thread")


def test_all_damage_is_found(
    good: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, original = good
    for trial in range(TRIALS):
        chance = random.Random(f"{kind} {trial}")
        directory = tmp_path / str(trial)
        shutil.copytree(original, directory, symlinks=True)
        newest = Trainee(kind, directory, keep_checkpoints=0).store.entries()[-1]
        file = chance.choice(sorted(newest.path.iterdir()))
        content = bytearray(file.read_bytes())
        match chance.choice(["flip", "flip", "truncate", "delete"]):
            case "flip":
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                file.write_bytes(content)
            case "truncate":
                os.truncate(file, chance.randrange(len(content)))
            case "delete":
                file.unlink()
        caplog.clear()
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        trainee.checkpointer.restore()
        assert trainee.step == 1, file.name
        assert "[DAMAGED]" in caplog.text or "[REPAIR]" in caplog.text
        trainee.checkpointer.equipment.close(wait=True)
        shutil.rmtree(directory)
    print(f"sharded, {kind}: {TRIALS} damages, all found")


@needs_root
@pytest.mark.parametrize(("file_system", "kind"), [("ext4", "artifact"), ("xfs", "local")])
def test_what_was_acknowledged_survives_a_power_cut(file_system: str, kind: str, tmp_path: Path) -> None:
    make = FILE_SYSTEMS[file_system]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    chance = random.Random(f"{file_system} {kind}")
    disk = Disk(tmp_path, make)
    acknowledged, seen = 0, dict[str, str]()  # of each step the fingerprint, which must never be another
    try:
        for _ in range(CUTS):
            children = save_for_ever(kind, disk.mount_point, tmp_path)
            begun = os.read(children[0].says, 1000)  # where it resumed; and from here on it saves
            begun += os.read(children[0].says, 1000)  # and has saved
            time.sleep(chance.uniform(0.1, 0.8))
            disk.cut_power()
            for child in children:
                child.kill()
            said = (begun.decode() + "\n".join(children[0].said())).splitlines()
            for child in children:
                child.wait()
            resumed = int(said[0].split()[0]) if said else 0
            assert resumed >= acknowledged, (tmp_path / "log0").read_text()[-3000:]
            for line in said:
                step, _, fingerprint = line.partition(" ")
                assert seen.setdefault(step, fingerprint) == fingerprint
            acknowledged = int(said[-1].split()[0])
            disk.unmount()
            disk.mount()
    finally:
        disk.close()
    print(f"sharded, {file_system}, {kind}: {CUTS} power cuts, {acknowledged} saves, 0 lost")
    assert acknowledged >= CUTS


def save_for_ever(kind: str, directory: Path, place: Path) -> list[Child]:
    """Two ranks that resume, and save after every step; the master tells each step that is saved."""
    port = ranks.free_port()

    def work(tell: Callable[[str], None], rank: int) -> None:
        with one_of_two(rank, port, kind, directory, keep_checkpoints=5) as trainee:
            trainee.checkpointer.restore()
            while True:
                fingerprint = trainee.fingerprint()
                if rank == 0 and not trainee.failed_saves:  # without power the last one fails
                    tell(f"{trainee.step} {fingerprint}")
                trainee.train()
                trainee.checkpointer.save()
                trainee.checkpointer.finish()

    return [fork(lambda tell, rank=rank: work(tell, rank), place / f"log{rank}") for rank in (0, 1)]  # type: ignore[misc]
