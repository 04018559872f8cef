"""A copy of the project to rehearse in: what the command deletes or changes, it deletes or changes there.

On the ISC each node of each cycle is a new container. So each node has a copy of its own here, and each cycle
finds it as the image would be: a copy is renewed before each, which costs what the cycle before has changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.errors import IscError
from isc_runtime.sizes import readable_size
from isc_runtime.submission.contents.image import image_content

HINT = (
    "Name data in .dockerignore, which are not copied then. Or let TMPDIR name a folder on a larger disk, or "
    "rehearse in the project itself: --in-place"
)


LONGEST = 64  # bytes: 103 for a socket, less /t99/pymp-12345678/listener-12345678, as Python calls them
BYTECODE = "__pycache__"  # stays: it goes by the date of its source, and takes a second to make again


@dataclass(frozen=True)
class Duplicate:
    """A copy.

    Attributes:
        files: how many files it has.
        size: in bytes.
    """

    files: int
    size: int


@dataclass(frozen=True)
class Place:
    """Where a node runs.

    Attributes:
        project: the project.
        temporary: for temporary files; empty when a cycle begins.
        own: what no other node sees, and no other cycle.
    """

    project: Path
    temporary: Path
    own: tuple[Path, ...]


@contextlib.contextmanager
def temporary_folders() -> Iterator[tuple[Path, Path]]:
    """A folder in TMPDIR, and one with a short path, which is the same if it can be; removed in the end.

    Sockets are made in what is a training's TMPDIR, and their paths may have some hundred bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="isc-"))
    is_short = len(os.fsencode(folder)) <= LONGEST
    short = folder if is_short else Path(tempfile.mkdtemp(prefix="isc-", dir="/tmp"))
    try:
        yield folder, short
    finally:
        for one in {folder, short}:
            with contextlib.suppress(OSError):
                remove(one)


class Places:
    """Where the nodes run, since now.

    Args:
        root: the project.
        folder: for the copies.
        data: the directory with the datasets.
        short: for what is temporary; None: as for the copies.
    """

    def __init__(
        self, root: Path, folder: Path, data: Path = Path("/data"), short: Path | None = None
    ) -> None:
        self.root, self.data, self._short = root, data, short or folder
        self.since = time.time()
        self._folder = folder
        self._image: Path | None = None  # the copy that the others are made of
        self._copies: dict[int, Copy] = {}

    def take_image(self, names: Sequence[str], nodes: int) -> Duplicate:
        """Copies the project, for the nodes to run in copies of that.

        Args:
            names: what it may be called on the ISC; links beside it make it known by all of them.
            nodes: for how many there must be room.
        """
        self._image = self._folder / "image"
        self._image.mkdir()
        image = duplicate(self.root, self._image / self.root.name, 1 + nodes)
        for name in names:
            if not (self._image / name).exists():
                (self._image / name).symlink_to(self.root.name)
        return image

    def project(self, node: int) -> Path:
        """The project, as a node sees it: in all cycles the same path."""
        return self.root if self._image is None else self._folder / str(node) / self.root.name

    def renewed(self, node: int) -> Place:
        """The place of a node in a new cycle: in its copy nothing is left of the one before."""
        temporary = self._short / f"t{node}"
        if temporary.exists():
            remove(temporary)
        temporary.mkdir()
        own: tuple[Path, ...] = (temporary,)
        if self._image is not None:
            copy = self._copies.setdefault(node, Copy(self._image, self._folder / str(node)))
            copy.renew()
            own = (temporary, copy.path)
        return Place(self.project(node), temporary, own)

    def left(self) -> list[str]:
        """The files that were made or changed in the copies since they were renewed; no caches."""
        names = {name for copy in self._copies.values() for name in copy.changed()}
        return sorted(str(Path(*name.parts[1:])) for name in names if not _is_cache(name))


class Copy:
    """A copy of a folder, again and again.

    Args:
        original: the folder. Nothing may change it.
        path: where the copy goes.
    """

    def __init__(self, original: Path, path: Path) -> None:
        self.path = path
        self._original = original
        self._folders: set[Path] = set()
        self._stamps: dict[Path, tuple[int, ...]] = {}  # of what was copied, as it was then

    def renew(self) -> None:
        """Makes it what the original is.

        Raises:
            OSError: there is no room, or what is in the way cannot be deleted.
        """
        self._clean()
        for folder, folders, files in os.walk(self._original):
            here = Path(folder).relative_to(self._original)
            (self.path / here).mkdir(exist_ok=True)
            self._folders.add(here)
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for source in (Path(folder, name) for name in (*files, *links)):
                name = source.relative_to(self._original)
                target = self.path / name
                if not os.path.lexists(target):
                    _copy(source, target, self._original, self.path)
                    self._stamps[name] = _stamp(target)

    def changed(self) -> Iterator[Path]:
        """The files that hold something else than was copied, by their names in the folder."""
        for folder, _, files in os.walk(self.path):
            for path in (Path(folder, name) for name in files):
                name = path.relative_to(self.path)
                before = self._stamps.get(name)
                if before is None or before[1:3] != _stamp(path)[1:3]:  # of size and date: chmod is no change
                    yield name

    def _clean(self) -> None:
        """Deletes what is not as it was copied."""
        for folder, folders, files in os.walk(self.path, topdown=False):
            for path in (Path(folder, name) for name in (*folders, *files)):
                name = path.relative_to(self.path)
                if path.is_dir() and not path.is_symlink():
                    is_known = path.name == BYTECODE and name.parent in self._folders
                    if not is_known and name not in self._folders:
                        remove(path)
                elif path.parent.name == BYTECODE and path.suffix == ".pyc":
                    continue
                elif self._stamps.get(name) != _stamp(path):
                    path.unlink()


def _is_cache(name: Path) -> bool:
    return BYTECODE in name.parts or any(part.startswith(".") for part in name.parts)


def remove(folder: Path) -> None:
    """Deletes a folder, with what is read-only in it: a copy of such a dataset, say. Raises OSError."""
    for inner, _, _ in os.walk(folder):
        Path(inner).chmod(0o700)
    shutil.rmtree(folder)


def _stamp(path: Path) -> tuple[int, ...]:
    """What is another one after each change: nobody can set the last of them."""
    stat = path.lstat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def duplicate(root: Path, path: Path, copies: int) -> Duplicate:
    """Copies what the image would take of a project, and links to the virtual environments in its folder.

    Args:
        root: the project.
        path: where the copy goes; it is made.
        copies: for how many there must be room.

    Raises:
        IscError: there is no room for it.
        OSError: it cannot be made.
    """
    content = image_content(root)
    free = shutil.disk_usage(path.parent).free
    if not content.is_complete:
        raise IscError(f"The project has more than {len(content.files)} files to copy", path.parent, HINT)
    if content.size * copies > free:
        sizes = f"it has {readable_size(content.size)}, and {readable_size(free)} are free"
        many = f"{copies} copies (one a node, and one to make them of) of the project"
        raise IscError(f"There is no room for {many}: {sizes}", path.parent, HINT)
    path.mkdir()
    for name in content.files:
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            _copy(root / name, target, root, path)
    for mark in root.glob("*/pyvenv.cfg"):  # a clone's; the image has another one
        if not (path / mark.parent.name).exists():
            (path / mark.parent.name).symlink_to(mark.parent, target_is_directory=True)
    return Duplicate(len(content.files), content.size)


def _copy(source: Path, target: Path, root: Path, copy: Path) -> None:
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        points_to = source.readlink()
        if points_to.is_relative_to(root):  # otherwise what happens in the copy would happen in the project
            points_to = copy / points_to.relative_to(root)
        target.symlink_to(points_to)
    elif stat.S_ISREG(mode):  # a socket or a pipe is nothing to copy
        shutil.copy2(source, target)
