"""One import for all ranks of a node: they are forks of a process that has imported what each of them would.

An import of torch takes a second of a core and thousands of small files; eight ranks on one node would do
that eight times, each time the ISC starts a cycle, and torchrun once more. multiprocessing has a server for
forks, which it starts as a new process; here it is a fork, so that even that import is made once.

Nothing that is imported may compute, start a thread or wake up CUDA: `rank` looks whether that holds, and
starts anew where it does not.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib
import os
import re
import signal
from collections.abc import Iterable, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h
# Whoever signals a whole process group means torchrun and the ranks; these take the signals up again.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
MODULES = [  # the first optimizer imports torch._dynamo
    *("torch", "torch._dynamo", "torch.distributed.run", "torch.utils.data", "torch.utils.tensorboard"),
    *("isc_runtime.checkpointing.checkpointer", "isc_runtime.training.loaders", "isc_runtime.preflight"),
]
server, has_threads = 0, False  # its process number, and whether what it imported had threads; for its forks


def start(project: Path) -> None:
    """Imports everything, and starts the server of multiprocessing (Linux).

    Args:
        project: the folder with train.py.
    """
    global has_threads
    _import(MODULES)
    if os.environ.get("OMP_NUM_THREADS") == "1":  # else libraries start threads when they are imported
        _import(imports_of(project))
        has_threads = len([*Path("/proc/self/task").iterdir()]) > 1
    mask = signal.pthread_sigmask(
        signal.SIG_BLOCK, SIGNALS
    )  # inherited by what multiprocessing tidies up with
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    spawn = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]  # for this one process
    try:
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = spawn


def _fork(_path: bytes, command_line: Sequence[str], descriptors: Iterable[int]) -> int:
    """Does in a fork of this process what a new Python would do with such a command line, `... -c CODE`."""
    global server
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        server = os.getpid()
        keep = {0, 1, 2, *descriptors}
        for descriptor in (int(file.name) for file in [*Path("/proc/self/fd").iterdir()]):
            if descriptor not in keep:
                with contextlib.suppress(OSError):  # what listed them is closed already
                    os.close(descriptor)
        if os.getppid() == launcher:  # it is there to be waited for
            exec(command_line[-1], {})
    finally:
        os._exit(0)


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # a rank imports it again, and says what is wrong with it
            importlib.import_module(name)


def imports_of(project: Path) -> list[str]:
    """The packages that the Python files beside train.py import, in order; their own modules are left out.

    None at all if they set environment variables: a package may read these when it is imported.
    """
    files = sorted(project.glob("*.py")) if (project / "train.py").exists() else []
    own = {path.stem for path in project.iterdir()}
    found: dict[str, None] = {}
    for file in files:
        try:
            source = file.read_text()
            nodes = list(ast.walk(ast.parse(source)))
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            continue  # the rank says so
        if re.search(r"\b(environ|putenv)\b", source):
            return []
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name: None for name in names if name and name.partition(".")[0] not in own}
    return list(found)
