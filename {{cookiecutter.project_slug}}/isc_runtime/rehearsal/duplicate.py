"""A copy of the project to rehearse in: what the command deletes or changes, it deletes or changes there."""

from __future__ import annotations

import contextlib
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.errors import IscError
from isc_runtime.sizes import readable_size
from isc_runtime.submission.contents.image import image_content

HINT = (
    "Name data in .dockerignore, which are not copied then. Or let TMPDIR name a folder on a larger disk, or "
    "rehearse in the project itself: --in-place"
)


@dataclass(frozen=True)
class Duplicate:
    """A copy.

    Attributes:
        path: where it is.
        files: how many files it has.
        size: in bytes.
    """

    path: Path
    files: int
    size: int


def duplicate(root: Path, path: Path) -> Duplicate:
    """Copies what the image would take of a project, and links to the virtual environments in its folder.

    Args:
        root: the project.
        path: where the copy goes; it is made.

    Raises:
        IscError: there is no room for it.
        OSError: it cannot be made.
    """
    content = image_content(root)
    free = shutil.disk_usage(path.parent).free
    if not content.is_complete:
        raise IscError(f"The project has more than {len(content.files)} files to copy", path.parent, HINT)
    if content.size > free:
        sizes = f"it has {readable_size(content.size)}, and {readable_size(free)} are free"
        raise IscError(f"There is no room for a copy of the project: {sizes}", path.parent, HINT)
    path.mkdir()
    for name in content.files:
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            _copy(root / name, target, root, path)
    for mark in root.glob("*/pyvenv.cfg"):  # a clone's; the image has another one
        if not (path / mark.parent.name).exists():
            (path / mark.parent.name).symlink_to(mark.parent, target_is_directory=True)
    return Duplicate(path, len(content.files), content.size)


def _copy(source: Path, target: Path, root: Path, copy: Path) -> None:
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        points_to = source.readlink()
        if points_to.is_relative_to(root):  # otherwise what happens in the copy would happen in the project
            points_to = copy / points_to.relative_to(root)
        target.symlink_to(points_to)
    elif stat.S_ISREG(mode):  # a socket or a pipe is nothing to copy
        shutil.copy2(source, target)
