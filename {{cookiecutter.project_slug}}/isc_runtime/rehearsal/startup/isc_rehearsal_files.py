"""In a rehearsal, in each rank: tells which files it opens that are not new in each cycle, and whom it asks.

`sitecustomize` beside this uses it. It writes, at most once for each path and kind:

    ["wrote", path, time]              a file was opened to be changed, or got this name
    ["read", path, time]               a file was opened to be read that was changed since the rehearsal began
    ["needs", path, time]              one that was there before, and is of this machine
    ["asked", host, time]              another machine was looked for

What is new in each cycle (the copy of the project, TMPDIR), the artifacts, and what belongs to Python or is a
cache of its tools does not count; what is large in a cache was fetched, and is needed. Seen is what Python
opens in the rank, and in processes that it forks, by its audit events.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

MOST = 1000  # paths of each kind: what is there in thousands is no state of a training
CACHES = (".cache", ".config", ".local", ".matplotlib", ".nv", ".triton")  # in the home directory
CACHE_VARIABLES = (
    *("CUDA_CACHE_PATH", "HF_DATASETS_CACHE", "HF_HOME", "HF_HUB_CACHE", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"),
    *("PYTHONPYCACHEPREFIX", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCH_HOME"),
    *("TRITON_CACHE_DIR", "UV_CACHE_DIR", "XDG_CACHE_HOME"),
)
OF_THE_SYSTEM = (  # an image has it, too, or something like it
    *("/bin", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/run", "/sbin", "/usr", "/var"),
    *("/Applications", "/Library", "/System"),
)
LARGE = 2**20  # bytes: settings and lists of a tool, which it makes again, are smaller
HERE = ("localhost", "127.", "::1", "0.0.0.0")  # how the names of this machine begin
NAMES = ("os.rename", "os.link", "os.symlink")  # events that give a file the name in their second argument
LOOKING = ("isc_runtime.submission.facts", "isc_runtime.ranks.sameness")  # they read all files of the project
HEARD = {"open", "sqlite3.connect", "socket.getaddrinfo", *NAMES}
CHANGES = os.O_WRONLY | os.O_RDWR


class Files:
    """Hears which files are opened, and which machines are looked for.

    Args:
        tell: writes a line.
        own: folders that are new in each cycle, and the artifacts.
        since: when the rehearsal began, seconds since the epoch.
        there: folders that the ISC has, too: the datasets, and the project.
    """

    def __init__(
        self, tell: Callable[..., None], own: Sequence[str], since: float, there: Sequence[str] = ()
    ) -> None:
        caches = [os.environ.get(name) for name in CACHE_VARIABLES]
        caches += [os.path.expanduser(f"~/{name}") for name in CACHES]  # noqa: PTH111 - without a home it stays
        self._known = _beginnings([*own, sys.prefix, sys.base_prefix, "/proc", "/sys"])
        self._caches = _beginnings(filter(None, caches))
        self._there = _beginnings([*there, *OF_THE_SYSTEM, *filter(None, sys.path)])
        self._given = tuple(f"{os.path.abspath(folder)}{os.sep}" for folder in there)  # noqa: PTH100
        self._tell = tell
        self._since = since
        self._told: dict[str, set[str]] = {"wrote": set(), "read": set(), "needs": set(), "asked": set()}

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """For sys.addaudithook. It never raises: that would end what is opened."""
        if event not in HEARD:
            return
        with contextlib.suppress(Exception):  # whatever it was given
            if event == "open":
                path, _, flags = arguments
                self.note(path, not flags & (os.O_WRONLY | os.O_TRUNC), bool(flags & CHANGES))
            elif event == "sqlite3.connect":
                self.note(os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0], True, True)
            elif event == "socket.getaddrinfo":
                self._note_host(arguments[0])
            else:
                self.note(arguments[1], False, True)

    def note(self, path: Any, is_read: bool, is_changed: bool) -> None:
        """Tells of a file that is about to be opened.

        Args:
            path: its name; a number is a file that is open already.
            is_read: whether what it holds is looked at.
            is_changed: whether it may be another one afterwards.
        """
        if isinstance(path, int) or path in ("", ":memory:"):
            return
        name = os.path.realpath(os.fsdecode(path))
        if f"{name}{os.sep}".startswith(self._known) or "__pycache__" in Path(name).parts:
            return
        if name.startswith("/dev/") and not name.startswith("/dev/shm/"):
            return
        is_cached = name.startswith(self._caches)
        given = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if given.startswith(self._given):  # of a dataset, wherever its links lead
            name = given
        if is_read and (kind := self._kind_of(name, is_cached)) and self._is_new(kind, name):
            self._note(kind, name)
        if is_changed and not is_cached and self._is_new("wrote", name):
            self._note("wrote", name)

    def _kind_of(self, name: str, is_cached: bool) -> str | None:
        """As what a file is read; None if that is nothing to tell."""
        try:
            found = os.stat(name)  # noqa: PTH116 - on each opening: it has to be fast
        except OSError:  # it is not there yet
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_ctime >= self._since:
            return None if is_cached or _is_looking_around() else "read"
        is_hidden = is_cached or f"{os.sep}." in name
        is_there = name.startswith((*self._there, *self._given))
        is_there = is_there or (is_hidden and found.st_size < LARGE)
        return None if is_there else "needs"

    def _note_host(self, host: Any) -> None:
        name = os.fsdecode(host or "")
        is_here = name in ("", "::", socket.gethostname()) or name.startswith(HERE)
        if not is_here and self._is_new("asked", name):
            self._note("asked", name)

    def _is_new(self, kind: str, name: str) -> bool:
        return name not in self._told[kind] and len(self._told[kind]) < MOST

    def _note(self, kind: str, name: str) -> None:
        self._told[kind].add(name)
        self._tell(kind, name, time.time())


def _beginnings(folders: Iterable[str]) -> tuple[str, ...]:
    """How the names begin of what is in one of these folders."""
    return tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in folders)


def _is_looking_around() -> bool:
    """Whether a file is opened to say what the project is, and not for the training."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") not in LOOKING:
        frame = frame.f_back
    return frame is not None
