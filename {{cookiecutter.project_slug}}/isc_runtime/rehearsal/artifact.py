"""What a sync of the ISC does to the checkpoint artifact.

It ships the directory that each saver's link points to, and every directory whose name ends with `_force`;
all other checkpoint directories are deleted. That a plain file is shipped is not promised. Sources:
https://docs.strongcompute.com and the README of https://github.com/StrongResearch/cycling_utils
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.layout import ArtifactLayout
from isc_runtime.checkpointing.on_disk.manifest import Damaged
from isc_runtime.checkpointing.on_disk.start_notes import FOLDER as STARTS
from isc_runtime.errors import ExitCode, IscError

LINK_SUFFIX = ".latest_checkpoint"
ASIDE = ".deleted-"
_CHECKPOINT = re.compile(r".+_checkpoint_\d+(_rank_\d+)?(?P<force>_force)?")


@dataclass(frozen=True)
class Synced:
    """What a sync did.

    Attributes:
        shipped: names of the directories that were shipped.
        deleted: names of the directories that were deleted.
        step: the training's step in the checkpoint that the training's link points to; None without one.
    """

    shipped: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    step: int | None = None


def foresee(artifact: Path) -> Synced:
    """What a sync would do now."""
    linked = set(_linked(artifact))
    shipped: list[str] = []
    deleted: list[str] = []
    for path in sorted(artifact.iterdir()):
        match = _CHECKPOINT.fullmatch(path.name)
        if match is None or path.is_symlink() or not path.is_dir() or path.name == STARTS:
            continue
        (shipped if path.name in linked or match["force"] else deleted).append(path.name)
    return Synced(tuple(shipped), tuple(deleted), newest_step(artifact))


def sync(artifact: Path) -> Synced:
    """Syncs the artifact, in place: what is not shipped and is a checkpoint directory is deleted.

    A training may be writing there meanwhile, as on the ISC. A save on its way is deleted then, but not one
    that has become the latest since: that would be lost together with all that it replaces.
    """
    synced = foresee(artifact)
    deleted = []
    for name in synced.deleted:
        aside = artifact / f"{ASIDE}{name}"
        with contextlib.suppress(FileNotFoundError):  # the training has deleted it itself
            (artifact / name).rename(aside)  # at once, which deleting is not
            if name in _link_targets(artifact):
                aside.rename(artifact / name)
            else:
                shutil.rmtree(aside, ignore_errors=True)
                deleted.append(name)
    return replace(synced, deleted=tuple(deleted))


def leave_only_what_was_shipped(artifact: Path, synced: Synced) -> None:
    """Makes of the artifact what the next cycle finds: shipped directories, and the links."""
    for path in artifact.iterdir():
        is_link = path.is_symlink() and path.name.endswith(LINK_SUFFIX)
        if is_link or path.name in (*synced.shipped, STARTS):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def step_of_artifact(earlier: Path) -> int:
    """The step that a training goes on from if a new experiment names this artifact as its input.

    Raises:
        IscError: there is no checkpoint in it that could be used.
    """
    hint = "Name the checkpoint artifact of an experiment, or a copy of it."
    if not earlier.is_dir():
        raise IscError("There is no such artifact", earlier, hint, ExitCode.USAGE)
    layout = ArtifactLayout(earlier)
    found = layout.resume(layout.entries())
    if found.chosen is None:
        why = f" ({found.obstacle})" if found.obstacle else ""
        raise IscError(f"There is no good checkpoint in this artifact{why}", earlier, hint, ExitCode.USAGE)
    return found.chosen[1].step


def newest_link(artifact: Path) -> str | None:
    """The name that the saver's link points to: it changes when a checkpoint is complete."""
    latest = _latest(artifact)
    return None if latest is None else latest.name


def newest_step(artifact: Path) -> int | None:
    """The step of the checkpoint that the saver's link points to; None without one."""
    latest = _latest(artifact)
    return None if latest is None else _step_of(latest)


def _latest(artifact: Path) -> Entry | None:
    layout = ArtifactLayout(artifact)
    return layout.latest(layout.entries())


def complete_checkpoints(artifact: Path) -> dict[int, Path]:
    """The directory of each complete checkpoint, by the training's step."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in ArtifactLayout(artifact).entries():
            if (step := _step_of(entry)) is not None:
                found[step] = entry.path
    return found


def size_of(checkpoint: Path) -> int:
    """Bytes of the files in the directory of a checkpoint."""
    return sum(file.stat().st_size for file in checkpoint.iterdir() if file.is_file())


def _step_of(entry: Entry) -> int | None:
    """The training's step in a checkpoint; None if it is not complete."""
    try:
        return entry.read_manifest().step
    except Damaged:
        return None


def _linked(artifact: Path) -> list[str]:
    """What the links point to, by name: the artifact may have been moved, and the target may be gone."""
    return [name for name in _link_targets(artifact) if (artifact / name).is_dir()]


def _link_targets(artifact: Path) -> list[str]:
    names = []
    for link in artifact.glob(f"*{LINK_SUFFIX}"):
        with contextlib.suppress(OSError):  # replaced at this instant
            names.append(link.readlink().name)
    return names
