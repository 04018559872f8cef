"""What is no good, or not wanted, is moved out of the way, and never deleted."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from isc_runtime.checkpointing.on_disk.durable import sync_directory
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE


def move_aside(paths: Sequence[Path], directory: Path, check: Callable[[], None] = lambda: None) -> Path:
    """Moves files and folders into a new folder of their own in `directory`/set-aside, durably.

    Args:
        paths: in the order in which to move them; those that are not there are left out.
        directory: of the checkpoints.
        check: called before each move; what it raises stops them.

    Returns:
        The new folder.

    Raises:
        OSError: one of them cannot be moved; all are where they were.
    """
    aside = directory / SET_ASIDE
    if aside.is_symlink():  # it may lead anywhere
        raise OSError(errno.ENOTDIR, f"{SET_ASIDE} is a link and no directory", str(aside))
    try:
        aside.mkdir(exist_ok=True)
    except FileExistsError:
        raise OSError(errno.ENOTDIR, f"{SET_ASIDE} is a file and no directory", str(aside)) from None
    target = Path(tempfile.mkdtemp(prefix=f"{datetime.now():%Y%m%d-%H%M%S}-", dir=aside))
    moved: list[Path] = []
    try:
        for path in paths:
            check()
            with contextlib.suppress(FileNotFoundError):
                path.rename(target / path.name)
                moved.append(path)
    except OSError:
        for path in reversed(moved):
            with contextlib.suppress(OSError):
                (target / path.name).rename(path)
        with contextlib.suppress(OSError):
            target.rmdir()
        raise
    for changed in (target, aside, directory):
        sync_directory(changed)
    return target
