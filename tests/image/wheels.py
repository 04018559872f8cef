"""How large what a lock installs is, without downloading it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from remotezip import RemoteZip

PYTHON, PLATFORM = (3, 11), "x86_64-manylinux_2_28"  # the image's
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


@dataclass(frozen=True)
class Size:
    """Of the wheels of a lock.

    Attributes:
        wheels: how many there are.
        packed: bytes to download.
        unpacked: bytes on the disk; bytecode comes on top.
    """

    wheels: int
    packed: int
    unpacked: int


def size_of(lock: Path, scratch: Path) -> Size:
    """Looks up every wheel that `lock` installs in the image, and reads its table of contents.

    Args:
        lock: a requirements.lock.
        scratch: a folder for intermediate files.
    """
    resolved = scratch / "pylock.toml"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--format=pylock.toml"]
    command += [f"--python-version={PYTHON[0]}.{PYTHON[1]}", f"--python-platform={PLATFORM}"]
    command += [f"--output-file={resolved}", str(lock)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    chosen = [_best(package) for package in tomllib.loads(resolved.read_text())["packages"]]
    with ThreadPoolExecutor(8) as executor:
        unpacked = sum(executor.map(_unpacked, chosen))
    return Size(len(chosen), sum(int(wheel["size"]) for wheel in chosen), unpacked)


def _tags() -> list[Tag]:
    return [*cpython_tags(PYTHON, platforms=PLATFORMS), *compatible_tags(PYTHON, "cp311", PLATFORMS)]


def _best(package: dict[str, Any]) -> dict[str, Any]:
    """The wheel of a package that pip would take."""
    order = {tag: number for number, tag in reversed(list(enumerate(_tags())))}
    ranked = []
    for wheel in package["wheels"]:
        tags = parse_wheel_filename(wheel["url"].rpartition("/")[2])[3]
        ranked += [(order[tag], wheel) for tag in tags if tag in order]
    best: dict[str, Any] = min(ranked, key=lambda pair: pair[0])[1]
    return best


def _unpacked(wheel: dict[str, Any]) -> int:
    with RemoteZip(wheel["url"]) as archive:
        return sum(member.file_size for member in archive.infolist())
