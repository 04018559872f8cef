"""Checkpoints that another program has written: told apart without torch, and without unpickling anything."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

from isc_runtime.checkpointing.on_disk.untrusted import plain_file

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".pth.tar")
LARGEST = 64 * 2**20  # bytes of the pickle in a file of torch.save
OURS = (b"rng", b"saves")  # keys that each checkpoint of this project has, and hardly another one


def is_foreign(payload: Path) -> bool:
    """Whether a file is whole and of another program: a save of this project that was cut short is not."""
    try:
        with plain_file(payload) as stream:
            head = stream.read(4)
            if not head.strip(b"\0"):  # empty, or what a power cut leaves
                return False
            if head != b"PK\x03\x04":  # all that this project writes begins so
                return True
            with zipfile.ZipFile(stream) as archive:
                pickles = [item for item in archive.infolist() if item.filename.endswith("/data.pkl")]
                if len(pickles) != 1 or pickles[0].file_size > LARGEST:
                    return True
                content = archive.read(pickles[0])
    except (OSError, zipfile.BadZipFile, EOFError):
        return False
    return not all(b"X" + len(key).to_bytes(4, "little") + key in content for key in OURS)


def other_files(directory: Path) -> list[Path]:
    """What in a directory looks like a checkpoint by its name's end, one folder deep; links left out."""
    found: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(directory) as items:
        for item in items:
            path = directory / item.name
            if item.is_symlink() or item.name.startswith("."):
                continue
            if item.is_file(follow_symlinks=False):
                files = [path]
            elif item.is_dir(follow_symlinks=False):
                files = [file for file in path.iterdir() if file.is_file() and not file.is_symlink()]
            else:
                continue
            found += [file for file in files if file.name.endswith(SUFFIXES)]
    return sorted(found)
