"""Places that say no in ways of their own: an image's layers, a quota, too little memory."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.on_disk.entries import Entry
from test_faults import make, needs_root, published
from test_power_cut import Disk
from trainee import KINDS, Trainee, fork, uninterrupted

Tell = Callable[[str], None]


def save_once(trainee: Trainee) -> None:
    trainee.train()
    trainee.checkpointer.save()
    trainee.checkpointer.finish()


def resumed(kind: str, directory: Path, log: Path) -> int:
    """The step that a run in `directory` goes on from, exactly; it saves twice there."""

    def work(tell: Tell) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=1)
        trainee.checkpointer.restore()
        tell(str(trainee.step))
        tell(repr(trainee.fingerprint()))
        for _ in range(2):
            save_once(trainee)
        assert published(trainee) == trainee.step

    child = fork(work, log)
    said = child.said()
    assert child.wait() == 0, log.read_text()
    assert said[1] == repr(uninterrupted(int(said[0])))
    return int(said[0])


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[Path]:
    """A place in which what is made in `lower` was there before, in an image for one."""
    for name in ("lower", "upper", "work", "mount"):
        (tmp_path / name).mkdir()
    yield tmp_path
    subprocess.run(["umount", tmp_path / "mount"], check=True)


@needs_root
@pytest.mark.parametrize("is_damaged", [False, True], ids=["good", "newest damaged"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_that_came_with_the_image(layers: Path, kind: str, is_damaged: bool) -> None:
    """overlayfs moves no folder out of the image: rename says EXDEV."""
    directory = make(layers / "lower" / "checkpoints")

    def begin(tell: Tell) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        for _ in range(3):
            save_once(trainee)

    assert fork(begin, layers / "log").wait() == 0, (layers / "log").read_text()
    if is_damaged:
        newest: Entry = Trainee(kind, directory).store.entries()[-1]
        newest.payload.write_bytes(b"damaged")
    options = ",".join(f"{name}dir={layers / name}" for name in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", layers / "mount"], check=True)
    place = layers / "mount" / "checkpoints"
    begun = 2 if is_damaged else 3
    assert [resumed(kind, place, layers / f"log{at}") for at in range(3)] == [begun, begun + 2, begun + 4]


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Path]:
    """A folder with a quota."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("mkfs.btrfs is not installed")
    disk = Disk(tmp_path, ["mkfs.btrfs", "-q"])
    folder = disk.mount_point / "checkpoints"
    commands = (
        f"quota enable {disk.mount_point}",
        f"subvolume create {folder}",
        f"qgroup limit 300k {folder}",
    )
    for command in commands:
        subprocess.run(["btrfs", *command.split()], check=True, capture_output=True)
    yield folder
    disk.close()


@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_a_quota(limited: Path, tmp_path: Path, kind: str) -> None:
    """The disk has room, and this folder has none: the reason is said, and nothing is lost."""

    def until_full(tell: Tell) -> None:
        trainee = Trainee(kind, limited, keep_checkpoints=0)
        while trainee.step < 100:
            save_once(trainee)
            if not trainee.failed_saves:
                tell(str(published(trainee)))

    child = fork(until_full, tmp_path / "log")
    good = [int(step) for step in child.said()]
    assert child.wait() == 1  # the IscError: nobody turns it into an exit code here
    log = (tmp_path / "log").read_text()
    assert "saves in a row failed" in log
    assert "Disk quota exceeded" in log
    subprocess.run(["btrfs", "qgroup", "limit", "none", limited], check=True)
    assert good[-1] <= resumed(kind, limited, tmp_path / "log2") <= good[-1] + 3


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_memory_for_a_copy(tmp_path: Path, kind: str) -> None:
    """The state cannot be copied: that save fails and says so, and the next one succeeds."""

    def work(tell: Tell) -> None:
        trainee = Trainee(kind, tmp_path, keep_checkpoints=0)
        save_once(trainee)
        trainee.metrics["large"] = torch.ones(2**26)  # 256 MB
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(re.findall(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[0])
        resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + 2**26, hard))
        save_once(trainee)
        tell(f"failed {trainee.failed_saves}")
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        save_once(trainee)
        tell(f"failed {trainee.failed_saves}, published {published(trainee)}")

    child = fork(work, tmp_path.with_name(f"{tmp_path.name}.log"))
    said = child.said()
    log = child.log.read_text()
    assert child.wait() == 0, log
    assert said == ["failed 1", "failed 0, published 3"], log
    assert re.search(r"\[FAILED\].*memory", log), log
    assert "Traceback" not in log
