"""The power goes: the file system is shut down without a flush of its log, and mounted again.

FS_IOC_SHUTDOWN with "no log flush" drops all that was not synced, as pulling the plug does; mounting replays
the journal. What a run had acknowledged must be there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SOAK
from test_faults import needs_root
from trainee import KINDS, Trainee, fork, uninterrupted

FS_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
FILE_SYSTEMS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
TRIALS = 5 * SOAK  # of each file system and each kind of store


class Disk:
    """A file system in a file, behind a loop device that stays: one of its own for each mount would let go of
    the file at some later time.

    Args:
        place: an empty directory for the file and the mount point.
        make: the command that makes the file system, without its last argument.
    """

    def __init__(self, place: Path, make: list[str]) -> None:
        self.image, self.mount_point = place / "image", place / "mount"
        self.mount_point.mkdir()
        with self.image.open("wb") as stream:
            stream.truncate(400 * 2**20)
        subprocess.run([*make, self.image], check=True, capture_output=True)
        losetup = ["losetup", "--find", "--show", str(self.image)]
        self._device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
        self.mount()

    def mount(self) -> None:
        """Mounts it, and so replays its journal."""
        subprocess.run(["mount", self._device, self.mount_point], check=True)

    def cut_power(self) -> None:
        """From here on nothing reaches the disk any more, not even what is on its way."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(descriptor)

    def unmount(self) -> None:
        """Unmounts it, and waits until it is gone.

        A process that still looks away from its end gets a moment. One with mounts of its own, as another
        test may start, has a copy of this one: as long as it runs, the next mount would get the file system
        that is shut down, and with it an input/output error.
        """
        wait_until(lambda: subprocess.run(["umount", self.mount_point], capture_output=True).returncode == 0)
        wait_until(self._is_free)

    def _is_free(self) -> bool:
        try:
            os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL))  # refused while it is mounted anywhere
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def close(self) -> None:
        """Nothing is left of it but the file."""
        self.unmount()
        subprocess.run(["losetup", "--detach", self._device], check=True)


@needs_root
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_what_was_acknowledged_survives_a_power_cut(file_system: str, kind: str, tmp_path: Path) -> None:
    make = FILE_SYSTEMS[file_system]
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    uninterrupted(1)
    chance = random.Random(f"{file_system} {kind}")
    disk = Disk(tmp_path, make)
    try:
        acknowledged = 0
        for _ in range(TRIALS):
            child = fork(lambda tell: save_for_ever(kind, disk.mount_point, tell), tmp_path / "log")
            begun = os.read(child.says, 1000).decode()  # it has saved
            time.sleep(chance.uniform(0.1, 0.8))
            disk.cut_power()
            child.kill()
            said = [int(line) for line in [*begun.splitlines(), *child.said()]]
            child.wait()
            acknowledged = max([acknowledged, *said])
            disk.unmount()
            disk.mount()
            resumed = resume(kind, disk.mount_point, tmp_path / "log")
            assert resumed >= acknowledged, (tmp_path / "log").read_text()[-3000:]
            acknowledged = resumed
    finally:
        disk.close()
    print(f"{file_system}, {kind}: {TRIALS} power cuts, {acknowledged} saves, 0 lost")
    assert acknowledged >= TRIALS


@needs_root
def test_a_copy_of_the_mount_in_another_process_is_waited_for(tmp_path: Path) -> None:
    disk = Disk(tmp_path, FILE_SYSTEMS["ext4"])
    command = ["unshare", "--mount", "sh", "-c", "echo && sleep 1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()  # it has its copy
        disk.cut_power()
        disk.unmount()
        assert other.poll() == 0
        disk.mount()
        (disk.mount_point / "new").touch()
    disk.close()


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(1200):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("the file system stays busy")


def save_for_ever(kind: str, directory: Path, tell: Callable[[str], None]) -> None:
    """Resumes, and saves after every step."""
    trainee = Trainee(kind, directory, keep_checkpoints=5)
    trainee.checkpointer.restore()
    while True:
        trainee.train()
        trainee.checkpointer.save()
        trainee.checkpointer.finish()
        if not trainee.failed_saves:  # without power the last one fails, and nobody acknowledges it
            tell(str(trainee.step))


def resume(kind: str, directory: Path, log: Path) -> int:
    """The step that the next run resumes at; its state is that of an uninterrupted run."""

    def work(tell: Callable[[str], None]) -> None:
        trainee = Trainee(kind, directory)
        trainee.checkpointer.restore()
        tell(str(trainee.step))
        tell(repr(trainee.fingerprint()))

    child = fork(work, log)
    said = child.said()
    assert child.wait() == 0, log.read_text()[-3000:]
    step, fingerprint = said
    assert fingerprint == repr(uninterrupted(int(step)))
    return int(step)
