"""One import for all ranks of a node: they are forks of a process that has imported what each of them would.

An import of torch takes a second of a core and thousands of small files; eight ranks on one node would do
that eight times, each time the ISC starts a cycle, and torchrun once more. multiprocessing has a server for
forks, which it starts as a new process; here it is a fork, so that even that import is made once.

Nothing that is imported may compute, start a thread or wake up CUDA, and a rank must be what a new process
would be. Where that cannot be promised ranks are new processes: slower, and never wrong.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import current_process, forkserver, resource_tracker, util
from pathlib import Path

from isc_runtime.python_files import RUNTIME, files_of, imports_of_others, name_of
from isc_runtime.ranks.interruption import end_with_parent

# Whoever signals a whole process group means torchrun and the ranks; these take the signals up again.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# These look at each process as Python starts it, or name another Python.
HOOKS = ("ISC_REHEARSAL_TRACE", "COVERAGE_PROCESS_START", "PYTHON_EXEC")
SETTERS = frozenset({"putenv", "unsetenv", "load_dotenv"})
SERVES = "multiprocessing.forkserver import main"  # in the code that Python starts its server with
MODULES = [  # the first optimizer imports torch._dynamo
    *("torch", "torch._dynamo", "torch.distributed.run", "torch.utils.data", "torch.utils.tensorboard"),
    *("isc_runtime.checkpointing.checkpointer", "isc_runtime.training.loaders", "isc_runtime.preflight"),
]
main_process = current_process()  # what multiprocessing takes this process for, and its forks
server = 0  # the server's process number, in it and in its forks


def start(script: Path) -> bool:
    """Imports what a script needs, and starts the server of multiprocessing, if forks do as well (Linux).

    Args:
        script: what the ranks run.

    Returns:
        Whether there is a server.
    """
    if script.suffix != ".py" or not script.is_file() or any(hook in os.environ for hook in HOOKS):
        return False
    folder, runtime = script.resolve().parent, Path(__file__).parents[2]
    own = folder / RUNTIME
    if own.exists() and not own.samefile(runtime):
        return False
    if any(map(sets_environment, files_of(folder, [script.name], forgiven=True).values())):
        return False  # what is imported later may read it
    names = list(MODULES)
    if os.environ.get("OMP_NUM_THREADS") == "1":  # else libraries start threads when they are imported
        names += [one.module for one in imports_of_others(folder, files_of(folder, [script.name]))]
    return _import(names) and _can_fork() and _start_server()


def sets_environment(tree: ast.Module) -> bool:
    """Whether a Python file does anything with the environment's variables but read them."""
    nodes = list(ast.walk(tree))
    read = {id(part) for node in nodes if _reads_environment(node) for part in ast.iter_child_nodes(node)}
    for node in nodes:
        if isinstance(node, ast.alias):
            if node.name in SETTERS or (node.name == "environ" and node.asname):
                return True
        elif isinstance(node, ast.expr):
            name = name_of(node)
            if name in SETTERS or (name == "environ" and id(node) not in read):
                return True
    return False


def _reads_environment(node: ast.AST) -> bool:
    """`environ[...]`, `environ.get(...)` and `... in environ`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Compare) or (isinstance(node, ast.Attribute) and node.attr in {"get", "copy"})


def _import(names: Iterable[str]) -> bool:
    """Whether all of this could be imported, or is not there at all."""
    for name in dict.fromkeys(names):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # `from torch import nn` may name a module, or a class
            if not f"{name}.".startswith(f"{error.name}."):
                return False
        except (Exception, SystemExit):  # the ranks say so, and none of them has half of it already
            return False
    return True


def _can_fork() -> bool:
    """Whether a fork has all that this process has: it has no other threads, and CUDA is asleep."""
    files = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    threads = [*Path("/proc/self/task").iterdir()]
    return len(threads) == 1 and not any(file.startswith("/dev/nvidia") for file in files)


def _start_server() -> bool:
    """Starts it, and returns whether it is a fork: of a Python that starts it in an unknown way it is not."""
    with _blocked():  # inherited by what multiprocessing tidies up with
        resource_tracker.ensure_running()
    before = _descriptors()
    spawn, forked = util.spawnv_passfds, False

    def fork(path: bytes, command_line: Sequence[str], descriptors: Sequence[int]) -> int:
        nonlocal forked
        util.spawnv_passfds = spawn
        at = next((at for at, word in enumerate(command_line) if SERVES in os.fsdecode(word)), None)
        if at is None:
            return spawn(path, command_line, descriptors)
        forked = True
        arguments = ["-c", *command_line[at + 1 :]]
        return _fork(command_line[at], arguments, _descriptors() - before - {*descriptors})

    util.spawnv_passfds = fork  # type: ignore[assignment]  # for this one process
    forkserver.ensure_running()
    return forked


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _descriptors() -> set[int]:
    return {int(file.name) for file in Path("/proc/self/fd").iterdir()}


def _fork(code: str, arguments: list[str], not_its_own: Iterable[int]) -> int:
    """Runs `code` in a fork of this process, as a new Python would with `-c`; returns its process number."""
    global server
    launcher = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both would write it
    with _blocked():
        if pid := os.fork():
            return pid
        try:
            end_with_parent(signal.SIGKILL)
            server = os.getpid()
            for descriptor in not_its_own:
                with contextlib.suppress(OSError):  # what listed them is closed already
                    os.close(descriptor)
            sys.argv = arguments
            atexit._clear = lambda: None  # a rank keeps what its imports have registered (Python 3.14)
            if os.getppid() == launcher:  # it is there to be waited for
                exec(code, {})
        finally:
            os._exit(0)
