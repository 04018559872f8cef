"""A stand-in for cycling_utils where it cannot be had: same interface, same traces on the disk.

Written from the description of its behaviour, not from its code. Only what this project uses is here:
`atomic_torch_save`, and `AtomicDirectory` with the strategy "mono". Its weaknesses are here on purpose, so
that the tests meet them. test_stand_in.py holds it and the real package to the same contract.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

__all__ = ["AtomicDirectory", "atomic_torch_save"]

STRATEGIES = ("sync_any", "sync_all", "async", "mono")


def atomic_torch_save(obj: object, f: str | Path, **kwargs: Any) -> None:
    """Saves under a temporary name beside `f`, then renames. A failed save leaves the temporary file."""
    temporary = Path(f"{f}.temp")
    torch.save(obj, temporary, **kwargs)
    temporary.replace(f)


class AtomicDirectory:
    """Numbered checkpoint directories and a symbolic link to the latest that is complete.

    Args:
        output_directory: where they are. It is made when it is missing.
        is_master: unused with "mono": a process outside a group is always its own master.
        name: the directories are `<name>_checkpoint_<index>` or `<name>_checkpoint_<index>_force`.
        keep_last: how many directories without `_force` to keep, the next one included; all if not positive.
        strategy: "mono". The default is the real one's.
        device: unused with "mono".

    Raises:
        TypeError: there is no such strategy.
        NotImplementedError: the strategy is one of those for a process group.
    """

    def __init__(
        self,
        output_directory: str,
        is_master: bool = False,
        name: str = "AtomicDirectory",
        keep_last: int = -1,
        strategy: str = "sync_any",
        device: str = "cuda",
    ) -> None:
        if strategy not in STRATEGIES:
            raise TypeError(f"strategy is {strategy!r} and should be one of {STRATEGIES}")
        if strategy != "mono":
            raise NotImplementedError(f"the stand-in has only the strategy 'mono', not {strategy!r}")
        Path(output_directory).mkdir(parents=True, exist_ok=True)
        self.output_directory = output_directory
        self.is_master = True
        self.name = name
        self.keep_last = keep_last
        self.strategy = strategy
        self.device = device
        self.symlink_name = f"{name}.latest_checkpoint"

    def prepare_checkpoint_directory(self, force_save: bool = False) -> str:
        """Deletes incomplete and superfluous checkpoints, and makes the directory of the next one.

        Raises:
            Exception: the link names a directory that is not there; KeyError when others are.
        """
        indices = self._indices()
        latest = self._latest(indices)
        for directory, index in indices.items():
            is_incomplete = index > latest
            is_superfluous = 0 < self.keep_last <= latest + 1 - index and not directory.endswith("_force")
            if is_incomplete or is_superfluous:
                shutil.rmtree(Path(self.output_directory, directory))
        name = f"{self.name}_checkpoint_{latest + 1}" + ("_force" if force_save else "")
        path = os.path.join(self.output_directory, name)  # noqa: PTH118 - Path would tidy it up, "./" and all
        Path(path).mkdir()
        return path

    def symlink_latest(self, checkpoint_directory: str) -> None:
        """Makes a directory the latest: the link beside it comes about under another name, then is renamed.

        Raises:
            FileExistsError: an earlier call died before the rename.
        """
        link = Path(checkpoint_directory).absolute().with_name(self.symlink_name)
        temporary = Path(f"{link}_temp")
        temporary.symlink_to(checkpoint_directory)
        temporary.replace(link)

    def _indices(self) -> dict[str, int]:
        """The index of every checkpoint directory, and of what an unanchored prefix takes for one."""
        pattern = re.compile(rf"{re.escape(self.name)}_checkpoint_(?:.*_checkpoint_)?(\d+)(?:_force)?")
        directories = [path.name for path in Path(self.output_directory).iterdir() if path.is_dir()]
        return {name: int(match[1]) for name in directories if (match := pattern.fullmatch(name))}

    def _latest(self, indices: dict[str, int]) -> int:
        link = Path(self.output_directory, self.symlink_name)
        if not os.path.lexists(link):
            return -1
        if not indices:
            raise Exception(f"{link} names a checkpoint, and there is none")
        return indices[link.readlink().name]
