"""Checkpoints of other programs that are several files in a folder: which ones belong together. No torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isc_runtime.checkpointing.on_disk.foreign import METADATA
from isc_runtime.checkpointing.on_disk.untrusted import is_file_name, parse, read_plain

INDEX = ".index.json"  # says in which file each of the weights is
LARGEST = 64 * 2**20  # bytes of one
# Names that transformers and accelerate give them; the first one that is there is taken.
WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
OPTIMIZERS, SCHEDULERS = ("optimizer.pt", "optimizer.bin"), ("scheduler.pt", "scheduler.bin")
NUMBERS, ARGUMENTS = "trainer_state.json", "training_args.bin"  # of transformers.Trainer
DEEPSPEED = "*_states.pt"


@dataclass(frozen=True)
class Folder:
    """A checkpoint in several files.

    Attributes:
        weights: the file with them, or with the index of those that have them.
        parts: the files of the optimizer and the scheduler, as far as they are there.
        numbers: the file that says how far the training was, if there is one.
        left: other files in the folder.
    """

    weights: Path
    parts: Sequence[Path]
    numbers: Path | None
    left: Sequence[Path] = field(default=())


def folder_of(path: Path) -> Folder | None:
    """A checkpoint of transformers or accelerate in a folder; None if there is none. Raises OSError."""
    there = {file.name: file for file in path.iterdir()} if path.is_dir() else {}
    weights = next((there[name] for name in WEIGHTS if name in there), None)
    if weights is None:
        return None
    found = [[there[name] for name in names if name in there] for names in (OPTIMIZERS, SCHEDULERS)]
    parts = [files[0] for files in found if files]
    if not parts and NUMBERS not in there and not weights.name.endswith(INDEX):
        return None  # one file, which means itself
    taken = {weights, *parts, there.get(NUMBERS)}
    if weights.name.endswith(INDEX):
        with contextlib.suppress(OSError, ValueError):
            taken |= set(files_of(weights).values())
    others = (file for file in there.values() if file not in taken and file.is_file())
    left = sorted(file for file in others if not file.name.startswith("."))
    return Folder(weights, parts, there.get(NUMBERS), left)


def meant_by(file: Path) -> Path:
    """What to import for a file of another program: itself, the folder that it is a part of, or the weights
    beside it, where it is what their Trainer was told."""
    with contextlib.suppress(OSError):
        if folder_of(file.parent) is not None or (file.parent / METADATA).is_file():
            return file.parent
        if is_of_deepspeed(file.parent):
            return file.parent
        if file.name == ARGUMENTS:
            return next((file.with_name(name) for name in WEIGHTS if file.with_name(name).is_file()), file)
    return file


def is_of_deepspeed(path: Path) -> bool:
    """Whether a folder holds what DeepSpeed saves: the parts of each rank."""
    return path.is_dir() and any(path.glob(f"*zero_pp_rank_{DEEPSPEED}"))


def linked(file: Path) -> Path:
    """Where a file is that may be a link: those of a folder that was named are, in the cache of a hub."""
    return Path(os.path.realpath(file))


def files_of(index: Path) -> Mapping[str, Path]:
    """In which file each of the weights is, by their names.

    Raises:
        OSError: the index cannot be read.
        ValueError: it is none.
    """
    content: dict[str, Any] = parse(read_plain(linked(index), LARGEST))
    names = content.get("weight_map")
    if not isinstance(names, dict) or not all(
        is_file_name(name) and not name.endswith(INDEX) for name in names.values()
    ):
        raise ValueError("it has no weight_map that names files beside it")
    return {weight: index.with_name(name) for weight, name in names.items()}


def numbers_in(file: Path) -> dict[str, float]:
    """How far the training was: steps and epochs, as far as the file says it."""
    try:
        content = parse(read_plain(linked(file), LARGEST))
    except (OSError, ValueError):
        return {}
    found: dict[str, Any] = {name: content.get(name) for name in ("global_step", "epoch")}
    return {name: value for name, value in found.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**63  # type: ignore[operator]
