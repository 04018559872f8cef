"""In a rehearsal, in each rank: tells which files it opens outside of what is new in each cycle.

`sitecustomize` beside this uses it. It writes, at most once for each path and kind:

    ["wrote", path, time]              a file was opened to be changed, or got this name
    ["read", path, time]               a file was opened to be read that was changed since the rehearsal began

What is new in each cycle (the copy of the project, TMPDIR), the artifacts, and what belongs to Python or is a
cache of its tools does not count. Seen is what Python opens in the rank itself, by its audit events.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MOST = 1000  # paths of each kind: what is there in thousands is no state of a training
CACHES = (".cache", ".config", ".local", ".matplotlib", ".nv", ".triton")  # in the home directory
CACHE_VARIABLES = (
    *("CUDA_CACHE_PATH", "HF_DATASETS_CACHE", "HF_HOME", "HF_HUB_CACHE", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"),
    *("PYTHONPYCACHEPREFIX", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCH_HOME"),
    *("TRITON_CACHE_DIR", "UV_CACHE_DIR", "XDG_CACHE_HOME"),
)
NAMES = ("os.rename", "os.link", "os.symlink")  # events that give a file the name in their second argument
LOOKING = ("isc_runtime.submission.facts", "isc_runtime.ranks.sameness")  # they read all files of the project
CHANGES = os.O_WRONLY | os.O_RDWR


class Files:
    """Hears which files are opened.

    Args:
        tell: writes a line.
        own: folders that are new in each cycle, and the artifacts.
        since: when the rehearsal began, seconds since the epoch.
    """

    def __init__(self, tell: Callable[..., None], own: Sequence[str], since: float) -> None:
        caches = [os.environ.get(name) for name in CACHE_VARIABLES]
        caches += [os.path.expanduser(f"~/{name}") for name in CACHES]  # noqa: PTH111 - without a home it stays
        folders = [*own, sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", *filter(None, caches)]
        self._known = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in folders)
        self._tell = tell
        self._since = since
        self._pid = os.getpid()
        self._told: dict[str, set[str]] = {"wrote": set(), "read": set()}

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """For sys.addaudithook. It never raises: that would end what is opened."""
        if event != "open" and event not in NAMES:
            return
        with contextlib.suppress(Exception):  # whatever it was given
            if event == "open":
                path, _, flags = arguments
                self.note(path, not flags & (os.O_WRONLY | os.O_TRUNC), bool(flags & CHANGES))
            else:
                self.note(arguments[1], False, True)

    def note(self, path: Any, is_read: bool, is_changed: bool) -> None:
        """Tells of a file that is about to be opened.

        Args:
            path: its name; a number is a file that is open already.
            is_read: whether what it holds is looked at.
            is_changed: whether it may be another one afterwards.
        """
        if isinstance(path, int) or os.getpid() != self._pid:
            return
        name = os.path.realpath(os.fsdecode(path))
        if f"{name}{os.sep}".startswith(self._known) or "__pycache__" in Path(name).parts:
            return
        if is_read and self._is_new("read", name) and self._has_changed(name) and not _is_looking_around():
            self._note("read", name)
        if is_changed and self._is_new("wrote", name):
            self._note("wrote", name)

    def _has_changed(self, name: str) -> bool:
        try:
            found = os.stat(name)  # noqa: PTH116 - on each opening: it has to be fast
        except OSError:  # it is not there yet
            return False
        return stat.S_ISREG(found.st_mode) and found.st_ctime >= self._since

    def _is_new(self, kind: str, name: str) -> bool:
        return name not in self._told[kind] and len(self._told[kind]) < MOST

    def _note(self, kind: str, name: str) -> None:
        self._told[kind].add(name)
        self._tell(kind, name, time.time())


def _is_looking_around() -> bool:
    """Whether a file is opened to say what the project is, and not for the training."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") not in LOOKING:
        frame = frame.f_back
    return frame is not None
