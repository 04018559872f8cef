"""Checkpoints of other programs: found and described without torch, and nothing is unpickled."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isc_runtime.checkpointing.on_disk import outline
from isc_runtime.checkpointing.on_disk.untrusted import plain_file

METADATA, PART = ".metadata", ".distcp"  # of torch.distributed.checkpoint, in a folder
FOLDERS = (METADATA, "checkpoint.pt")  # a folder that has one of these is a checkpoint; the second is ours
# These are checkpoints by their name, and others by their beginning: people call them .bin, .tar, .isc, ...
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".pth.tar", PART)
BEGINNING = 2**16  # bytes; what a pickle names first is in them
DEEPEST, MOST = 8, 20_000  # folders and entries that are looked at
LARGEST = 64 * 2**20  # bytes of the pickle in a file of torch.save
OURS = (b"rng", b"saves")  # keys that each checkpoint of this project has, and hardly another one

ZIP, LEGACY, PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80"
TORCH, OLD_TORCH, SAFETENSORS = "torch.save", "torch.save of before 1.6", "safetensors"
DISTRIBUTED, A_PICKLE, UNKNOWN = "torch.distributed.checkpoint", "a pickle", "unknown format"

# What Python's readers raise of damaged files: a flipped bit may ask for a password, or a version of zip or
# a compression that nobody has, or make a name that is none.
UNREADABLE = (
    *(OSError, EOFError, ValueError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)

Nature = Literal["empty", "torn", "own", "foreign"]


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another program.

    Attributes:
        path: the file, or the folder of torch.distributed.checkpoint.
        kind: its format.
        keys: of its topmost dict: numbers with their values, dicts with their sizes.
        bytes: of the file.
        is_ours: this project has written it, and no start looks there.
    """

    path: str
    kind: str
    keys: list[str]
    bytes: int
    is_ours: bool = False

    def __str__(self) -> str:
        """Without its path."""
        if self.is_ours:
            return f"a checkpoint of this project, where no start looks ({self.kind})"
        more = [f"and {len(self.keys) - 8} more"] if len(self.keys) > 8 else []
        return f"{self.kind}, keys {', '.join([*self.keys[:8], *more]) or 'unknown'}"


def nature(payload: Path) -> Nature:
    """What a file is: nothing yet, cut short, a state of this project, or of another program.

    A whole one is told from one that was cut short only where torch wrote it, as this project does.
    """
    try:
        with plain_file(payload) as stream:
            head = stream.read(4)
            if not head.strip(b"\0"):  # empty, or what a power cut leaves
                return "empty"
            if head != ZIP:  # all that this project writes begins so
                return "foreign"
            content = _pickle_in(stream)
    except FileNotFoundError:
        return "empty"
    except UNREADABLE:
        return "torn"
    is_ours = content is not None and all(
        b"X" + len(key).to_bytes(4, "little") + key in content for key in OURS
    )
    return "own" if is_ours else "foreign"


def is_foreign(payload: Path) -> bool:
    """Whether a file is whole and of another program: a save of this project that was cut short is not."""
    return nature(payload) == "foreign"


def may_be_first(payload: Path) -> bool:
    """Whether a file may be the first save of a training: one that was cut short, or one that says so."""
    content: Any = None
    with contextlib.suppress(*UNREADABLE):
        content = _content(payload, TORCH)
    saves = content.get("saves") if isinstance(content, dict) else None
    return not is_foreign(payload) and not (type(saves) is int and saves > 1)


def _pickle_in(stream: io.FileIO) -> bytes | None:
    """The pickle in an archive of torch.save; None if there is no such thing, or it is too large.

    Its checksum is not looked at: torch can be told to leave them out, as this project tells it.
    """
    with zipfile.ZipFile(stream) as archive:
        found = [item for item in archive.infolist() if item.filename.endswith("/data.pkl")]
        if len(found) != 1 or found[0].file_size > LARGEST:
            return None
        if found[0].compress_type != zipfile.ZIP_STORED:
            return archive.read(found[0])
    stream.seek(found[0].header_offset)
    name, extra = struct.unpack("<26xHH", stream.read(30))
    stream.seek(name + extra, os.SEEK_CUR)
    return stream.read(found[0].file_size)


def other_checkpoints(directory: Path, aside: Path) -> list[Path]:
    """What in a directory looks like a checkpoint, by its name or its beginning.

    Of links those to files elsewhere that are called like one, and to folders elsewhere that are one; no
    other link is followed.

    Args:
        directory: at most `DEEPEST` folders below it and `MOST` entries are looked at.
        aside: a folder that is left out.

    Returns:
        Files, and folders of torch.distributed.checkpoint.
    """
    found: list[Path] = []
    folders, left = [(directory, 0)], MOST
    while folders and left > 0:
        folder, depth = folders.pop(0)
        with contextlib.suppress(OSError), os.scandir(folder) as items:
            for item in items:
                path, left = folder / item.name, left - 1
                if item.is_symlink():
                    found += [path] if _leads_to_one(path, directory) else []
                elif item.is_file(follow_symlinks=False) and _looks_like_one(path):
                    found.append(folder if item.name == METADATA else path)
                is_visible = item.is_dir(follow_symlinks=False) and not item.name.startswith(".")
                if is_visible and path != aside and depth < DEEPEST:
                    folders.append((path, depth + 1))
    return sorted(path for path in set(found) if path.suffix != PART or path.parent not in found)


def _leads_to_one(link: Path, directory: Path) -> bool:
    target = Path(os.path.realpath(link))
    if target.is_relative_to(os.path.realpath(directory)):
        return False
    if target.is_dir():
        return any((target / name).is_file() for name in FOLDERS)
    return link.name.lower().endswith(SUFFIXES) and target.is_file()


def _looks_like_one(file: Path) -> bool:
    if file.name == METADATA:
        return True
    if file.name.startswith("."):
        return False
    return file.name.lower().endswith(SUFFIXES) or _begins_like_one(_head(file))


def _begins_like_one(head: bytes) -> bool:
    """Whether the beginning of a file says that torch, or safetensors, wrote it."""
    kind = _kind_of(head)
    if kind == TORCH:  # or another archive: torch writes the pickle first
        (length,) = struct.unpack_from("<H", head, 26) if len(head) >= 30 else (0,)
        return head[30 : 30 + length].endswith(b"/data.pkl")
    if kind == A_PICKLE:
        return b"torch" in head
    return kind != UNKNOWN


def _head(file: Path) -> bytes:
    try:
        with plain_file(file) as stream:
            head = stream.read(2**10)
            return head + stream.read(BEGINNING) if head.startswith(PICKLE) else head
    except OSError:
        return b""


def _kind_of(head: bytes) -> str:
    if head.startswith(ZIP):
        return TORCH
    if head.startswith(LEGACY):
        return OLD_TORCH
    if head.startswith(PICKLE):
        return A_PICKLE
    is_safe = len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST
    return SAFETENSORS if is_safe else UNKNOWN


def described(path: Path) -> Foreign:
    """What can be said of a checkpoint of another program. Nothing here raises."""
    if path.is_symlink():
        return Foreign(str(path), f"a link to {path.readlink()}", [], 0)
    file = path / METADATA if path.is_dir() else path
    kind = DISTRIBUTED if path.is_dir() or path.suffix == PART else _kind_of(_head(path))
    size, keys = 0, list[str]()
    with contextlib.suppress(*UNREADABLE):
        size = file.lstat().st_size
        content = _content(file, kind)
        if kind == DISTRIBUTED and isinstance(content, dict):
            content = content.get("state_dict_metadata")
        keys = list(_keys(content))  # a number may be too long for a text
    return Foreign(str(path), kind, keys, size)


def _content(file: Path, kind: str) -> Any:
    """An outline of what a file holds; None if it is too large for one."""
    with plain_file(file) as stream:
        if kind == SAFETENSORS:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            return {name: outline.TENSOR for name in header if name != "__metadata__"}
        if kind == TORCH:
            content = _pickle_in(stream)
            return (
                None if len(content or b"") > outline.LARGEST else outline.outline(io.BytesIO(content or b""))
            )
        if kind == OLD_TORCH:
            buffered = io.BytesIO(stream.read(outline.LARGEST))
            for _ in range(3):  # a magic number, a version, what the machine is like
                outline.outline(buffered)
            return outline.outline(buffered)
        if kind in (DISTRIBUTED, A_PICKLE):
            return outline.outline(io.BytesIO(stream.read(outline.LARGEST)))
    return None


def _keys(content: Any) -> Iterator[str]:
    """A dict's keys, as a person wants to see them."""
    for key, value in content.items() if isinstance(content, dict) else ():
        name = str(key)[:60]
        if isinstance(value, dict):
            yield f"{name} ({len(value)})"
        else:
            yield f"{name} = {value}" if type(value) in (bool, int, float) else name
