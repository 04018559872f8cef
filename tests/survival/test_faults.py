"""The disk says no at every single system call of a save: the training goes on and the next save succeeds."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from isc_runtime.checkpointing.on_disk.manifest import Manifest
from strace import Call, attach, mutating_calls, needs_strace
from trainee import KINDS, Trainee, fork, uninterrupted, writer_thread

ERRORS = ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "ESTALE", "EINTR"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def published(trainee: Trainee) -> int:
    """The step of the checkpoint that the link points to, every byte of it verified."""
    latest = trainee.store.latest()
    assert latest is not None
    manifest: Manifest = latest.read_manifest()
    manifest.verify(latest.payload.parent)
    return manifest.step


def save_three_times(
    kind: str, directory: Path, place: Path, traced: str, inject: str
) -> tuple[list[str], Path]:
    """One good save, one with an error injected, one good again. Returns what it said, and the trace."""
    reading, writing = os.pipe()

    def work(tell: object) -> None:
        assert callable(tell)
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        for number in range(3):
            trainee.train()
            if number == 1:
                tell(str(os.getpid() if traced == "main" else writer_thread()))
                os.read(reading, 1)
            trainee.checkpointer.save()
            trainee.checkpointer.finish()
            if number == 1:
                tell("saved")
                os.read(reading, 1)
            tell(f"good {published(trainee)}")

    child = fork(work, place / "log")
    with os.fdopen(child.says) as says:
        said = [says.readline()]
        strace = attach(int(says.readline()), place / "trace", inject)
        os.write(writing, b"g")
        assert says.readline() == "saved\n", (place / "log").read_text()
        strace.terminate()
        strace.wait()
        os.write(writing, b"g")
        said += says.readlines()
    assert child.wait() == 0, (place / "log").read_text()
    return said, place / "trace"


@needs_strace
@pytest.mark.parametrize("traced", ["main", "writer"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_at_every_call(kind: str, traced: str, tmp_path: Path) -> None:
    uninterrupted(1)
    _, trace = save_three_times(
        kind, make(tmp_path / "whole" / "checkpoints"), tmp_path / "whole", traced, ""
    )
    calls = mutating_calls(trace, tmp_path / "whole" / "checkpoints")
    assert calls
    for number, (call, error) in enumerate((call, error) for call in calls for error in ERRORS):
        place = tmp_path / str(number)
        refused_at(call, error, kind, place, traced)
        shutil.rmtree(place)
    print(f"{kind}, {traced} thread: {len(calls)} calls x {len(ERRORS)} errors")


def refused_at(call: Call, error: str, kind: str, place: Path, traced: str) -> None:
    directory = make(place / "checkpoints")
    inject = f"{call.name}:error={error}:when={call.number}"
    said, _ = save_three_times(kind, directory, place, traced, inject)
    log = (place / "log").read_text()
    where = f"{error} at {call}:\n{log}"
    assert said[0] == "good 1\n", where
    assert said[1] in ("good 1\n", "good 2\n"), where
    assert said[2] == "good 3\n", where
    if said[1] == "good 1\n":
        assert "[FAILED]" in log, where
        reason = os.strerror(getattr(errno, error))
        assert reason in log or "torch could not write the file" in log, where
    assert "Traceback" not in log, where
    assert not [path for path in directory.rglob("*") if "temp" in path.name], where


def make(directory: Path) -> Path:
    """A new directory."""
    directory.mkdir(parents=True)
    return directory


@pytest.fixture(params=["size=200k", "nr_inodes=14"], ids=["no space", "no inodes"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that is full after a few checkpoints."""
    directory = make(tmp_path / "small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_file_system(small: Path, tmp_path: Path, kind: str) -> None:
    """Saves until it is full: the run ends with its own code, and the last good checkpoint is resumed."""

    def until_full(tell: object) -> None:
        assert callable(tell)
        trainee = Trainee(kind, small, keep_checkpoints=0)
        trainee.checkpointer.restore()
        while trainee.step < 50:
            trainee.train()
            trainee.checkpointer.save()
            trainee.checkpointer.finish()
            tell(str(published(trainee)))

    child = fork(until_full, tmp_path / "log")
    good = [int(line) for line in child.said()]
    assert child.wait() == 1  # the IscError: nobody turns it into an exit code here
    log = (tmp_path / "log").read_text()
    assert "saves in a row failed" in log
    assert "(failure 3 of 3 in a row)" in log

    def resume(tell: object) -> None:
        assert callable(tell)
        trainee = Trainee(kind, small)
        trainee.checkpointer.restore()
        tell(str(trainee.step))
        tell(repr(trainee.fingerprint()))

    subprocess.run(["mount", "-o", "remount,size=10m,nr_inodes=1000", small], check=True)
    child = fork(resume, tmp_path / "log2")
    resumed, fingerprint = child.said()
    assert good[-1] <= int(resumed) <= good[-1] + 3  # what only the link was missing to is not lost
    assert fingerprint == repr(uninterrupted(int(resumed)))
    assert child.wait() == 0, (tmp_path / "log2").read_text()


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_becomes_read_only_and_comes_back(tmp_path: Path, kind: str) -> None:
    directory = make(tmp_path / "mount")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)

    def work(tell: object) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        for option in ("rw", "ro", "rw"):
            subprocess.run(["mount", "-o", f"remount,{option}", directory], check=True)
            trainee.train()
            trainee.checkpointer.save()
            trainee.checkpointer.finish()
        assert published(trainee) == 3

    try:
        assert fork(work, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    finally:
        subprocess.run(["umount", directory], check=True)
    assert "Read-only file system" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_vanishes_and_comes_back(tmp_path: Path, kind: str) -> None:
    directory = make(tmp_path / "checkpoints")

    def work(tell: object) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        for number in range(4):
            if number == 1:
                directory.rename(tmp_path / "gone")
            if number == 2:
                (tmp_path / "gone").rename(directory)
            trainee.train()
            trainee.checkpointer.save()
            trainee.checkpointer.finish()
        assert published(trainee) == 4

    assert fork(work, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("[FAILED]") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_is_always_full(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes the place of the file that a save writes: it can be opened, and no byte fits."""
    directory = make(tmp_path / "checkpoints")

    def work(tell: object) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        prepare = trainee.store.prepare

        def onto_a_full_device(step: int, force: bool) -> Path:
            payload: Path = prepare(step, force)
            staged = trainee.store.staged(payload)
            staged.with_name(f"{staged.name}.temp").symlink_to("/dev/full")
            return payload

        for prepared in (prepare, onto_a_full_device, prepare):
            monkeypatch.setattr(trainee.store, "prepare", prepared)
            trainee.train()
            trainee.checkpointer.save()
            trainee.checkpointer.finish()
        assert published(trainee) == 3

    assert fork(work, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert log.count("[FAILED]") == 1
    # There torch loses the system's reason, and the disk itself, which is asked again, has room.
    reasons = {"artifact": "torch could not write the file", "local": "No space left on device"}
    assert reasons[kind] in log
    assert not [path for path in directory.rglob("*") if path.name.endswith(".temp")]
    assert Path("/dev/full").is_char_device()
