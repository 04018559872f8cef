"""What a checkpoint holds, byte for byte: a manifest, written last, knows its files and checksums.

A checkpoint without a manifest, or one that does not match it, is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from isc_runtime.checkpointing.on_disk.durable import write_durably
from isc_runtime.checkpointing.on_disk.untrusted import (
    is_count,
    is_file_name,
    is_seconds,
    parse,
    plain_file,
    plain_size,
    read_plain,
)
from isc_runtime.errors import START_OVER, ExitCode, IscError

FORMAT_VERSION = 1
WHOLE, SHARDED = "whole", "sharded"  # the formats of a checkpoint, as a manifest's details name them
SHARD = ".distcp"  # how the names of torch.distributed.checkpoint's files end
NOBODY = {"count": 0}  # the owner of a checkpoint that does not name the run that saved it

LARGEST_MANIFEST = 4 * 2**20  # bytes; a checkpoint of a thousand ranks has one of 120 kB

Checksums = dict[str, dict[str, int | str]]  # for each file its size in bytes and its xxh3-128 checksum
Progress = Callable[[int, int], None]  # is told how many bytes of how many have been compared so far


def unheard(_compared: int, _total: int) -> None:
    """For whoever does not want to know of the progress."""


class Damaged(Exception):
    """A checkpoint that is not what its manifest says; the message tells why."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: optimizer steps taken since the start of the training.
        time: when it was saved, ISO 8601, UTC.
        details: what is good to know without opening it: epoch, batch, ranks, ...
        files: for each file its size in bytes and its xxh3-128 checksum.
    """

    step: int
    time: str
    details: dict[str, Any]
    files: Checksums
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(
        cls,
        files: Sequence[Path],
        step: int,
        time: str,
        details: dict[str, Any],
        more_files: Checksums | None = None,
    ) -> Manifest:
        """Describes `files` as they are on the disk now, and takes over what is known of `more_files`."""
        return cls(step, time, details, {**describe(files), **(more_files or {})})

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            Damaged: there is none, or it is not a manifest.
            IscError: it was written by a newer version of this project.
        """
        try:
            content = parse(read_plain(path, LARGEST_MANIFEST))
            if content.pop("checksum") != _checksum_of(content):
                raise Damaged(f"{path.name} does not match its own checksum")
            version = content["format_version"]
            if is_count(version) and version > FORMAT_VERSION:
                raise IscError(
                    f"A checkpoint has format {version}, and this project reads up to {FORMAT_VERSION}",
                    path,
                    f"Update isc_runtime, or {START_OVER}.",
                    ExitCode.CHECKPOINT,
                )
            manifest = cls(**content)
            manifest._check()
        except FileNotFoundError:
            raise Damaged(f"{path.name} is missing") from None
        except OSError as error:
            raise Damaged(f"{path.name} cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Damaged(f"{path.name} is not a manifest") from None
        return manifest

    def _check(self) -> None:
        """Raises ValueError or TypeError if a field is not what it must be: the file may be a stranger's."""
        if not (isinstance(self.details, dict) and isinstance(self.files, dict)):
            raise TypeError("no objects")
        datetime.fromisoformat(self.time)
        known: dict[str, Any] = {"epoch": 0, "batch": 0, "world_size": 0, "force": False, "format": WHOLE}
        known |= {name: value for name, value in self.details.items() if name in known}
        owner = self.details.get("owner", NOBODY)
        is_good = (
            is_count(self.format_version)
            and self.format_version == FORMAT_VERSION
            and is_count(self.step)
            and all(is_count(known[name]) for name in ("epoch", "batch", "world_size"))
            and isinstance(known["force"], bool)
            and is_seconds(self.details.get("seconds", 0))
            and known["format"] in (WHOLE, SHARDED)
            and isinstance(owner, dict)
            and is_count(owner.get("count"))
            and bool(self.files)
            and all(is_file_name(name) and _is_description(entry) for name, entry in self.files.items())
        )
        if not is_good:
            raise ValueError("not a manifest")

    @property
    def owner_count(self) -> int:
        """How many runs there had been in the directory with the one that saved it; 0 was not noted."""
        return int(self.details.get("owner", NOBODY)["count"])

    def write(self, path: Path) -> None:
        """Writes it durably and atomically, with a checksum of itself."""
        content = asdict(self)
        content["checksum"] = _checksum_of(content)
        write_durably(path, json.dumps(content, indent=1).encode())

    def verify(
        self, directory: Path, progress: Progress = unheard, names: Iterable[str] | None = None
    ) -> None:
        """Compares every byte of the files in `directory` with what is written here, sizes first.

        Args:
            directory: where they are.
            progress: called after each megabyte.
            names: of the files that are read; the others' sizes are compared all the same. None: all.

        Raises:
            Damaged: one of them differs, or is no plain file.
        """
        self.verify_sizes(directory)
        chosen = list(self.files if names is None else names)
        compared, total = 0, sum(int(self.files[name]["size"]) for name in chosen)

        def note(count: int) -> None:
            nonlocal compared
            compared += count
            progress(compared, total)

        self._verify_each(directory, chosen, lambda file: self._verify_content(file, note))

    def verify_sizes(self, directory: Path) -> None:
        """Compares the sizes alone: quick, and blind to flipped bits. Raises Damaged."""
        self._verify_each(directory, self.files, self._verify_size)

    @property
    def shards(self) -> list[str]:
        """The names of the files of a sharded checkpoint that ranks have written, in the ranks' order."""
        is_sharded = self.details.get("format") == SHARDED
        return [name for name in self.files if is_sharded and name.endswith(SHARD)]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(int(entry["size"]) for entry in self.files.values())

    def _verify_each(self, directory: Path, names: Iterable[str], check: Callable[[Path], None]) -> None:
        for name in names:
            try:
                check(directory / name)
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None
            except OSError as error:
                raise Damaged(f"{name} cannot be read ({error.strerror})") from None

    def _verify_size(self, file: Path) -> None:
        size, expected = plain_size(file), self.files[file.name]["size"]
        if size != expected:
            raise Damaged(f"{file.name} has {size} bytes instead of {expected}")

    def _verify_content(self, file: Path, note: Callable[[int], None]) -> None:
        if checksum(file, note) != self.files[file.name]["xxh3_128"]:
            raise Damaged(f"the content of {file.name} does not match its checksum")


def _is_description(entry: object) -> bool:
    """Whether this is what a manifest says of one file."""
    return isinstance(entry, dict) and is_count(entry.get("size")) and isinstance(entry.get("xxh3_128"), str)


def _checksum_of(content: dict[str, Any]) -> str:
    """The checksum of a manifest's content, of whatever format version."""
    import xxhash  # not at module level: preflight says so in words when it is not installed

    return str(xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode()))


def describe(files: Sequence[Path]) -> Checksums:
    """What a manifest says of `files`, as they are on the disk now."""
    return {file.name: {"size": file.stat().st_size, "xxh3_128": checksum(file)} for file in files}


def checksum(file: Path, note: Callable[[int], None] = lambda count: None) -> str:
    """The xxh3-128 of a plain file, in hexadecimal: 30 GB/s, so that checking costs less than reading.

    Args:
        file: no link, device or pipe. It is read as far as it goes now: one that grows is not read for ever.
        note: called with the number of bytes read since the last call.

    Raises:
        OSError: it cannot be read.
    """
    import xxhash

    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(2**20))
    with plain_file(file) as stream:  # not mapped: a bad sector is an error, no SIGBUS
        left = os.fstat(stream.fileno()).st_size
        while left > 0 and (count := stream.readinto(buffer[:left])):
            digest.update(buffer[:count])
            left -= count
            note(count)
    return digest.hexdigest()
