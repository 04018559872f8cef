"""A rank that was forked from the server: becomes what `python -u SCRIPT ARGUMENTS` would be, and runs that.

    rank.py SCRIPT ARGUMENTS            torchrun runs this file in the fork

What is other in a fork than in a new process is put right here; whether that is possible at all, and a script
is to be run so, `fork_server` has decided.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import signal
import sys
import types
from importlib.machinery import SourceFileLoader
from multiprocessing import forkserver, process, resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from isc_runtime.ranks.interruption import end_with_launcher
from isc_runtime.ranks.launching import fork_server


def become_a_new_process(script: str) -> None:
    """Puts right what is other in this fork than in a new process."""
    end_with_launcher()
    if os.getppid() != fork_server.server:
        raise SystemExit(128 + signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, fork_server.SIGNALS)
    os.setsid()  # as torchrun does: Ctrl-C goes to torchrun alone, which passes it on
    _forget_the_server()
    for number, name in enumerate(("stdout", "stderr"), start=1):  # what was said is there at once
        usual = getattr(sys, name)
        raw = open(number, "wb", buffering=0, closefd=False)  # noqa: SIM115  # as long as the process lives
        stream = io.TextIOWrapper(raw, usual.encoding, usual.errors, write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    # They were imported once, and all ranks would draw the same.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(script).resolve().parent)
    del sys.argv[0]


def _forget_the_server() -> None:
    """What this process starts by multiprocessing begins as in a process that nothing started so."""
    server: Any = forkserver._forkserver
    tracker: Any = resource_tracker._resource_tracker
    for descriptor in (server._forkserver_alive_fd, tracker._fd):
        os.close(descriptor)
    for begun in (server, tracker, fork_server.main_process):
        type(begun).__init__(begun)
    multiprocessing.set_start_method(None, force=True)
    vars(process).update(_current_process=fork_server.main_process, _parent_process=None)


def run(script: str) -> None:
    """Runs a script, whose arguments are in `sys.argv`, as Python does. Raises what it raises."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __loader__=SourceFileLoader("__main__", script), __cached__=None)
    sys.modules["__main__"] = main
    with io.open_code(script) as file:
        code = compile(file.read(), script, "exec")
    exec(code, main.__dict__)


def _within_script(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without what is above the script; all of it if that was not reached."""
    at = trace
    while at is not None and at.tb_frame.f_code is not run.__code__:
        at = at.tb_next
    return at.tb_next if at is not None else trace


def _code_of(wish: SystemExit) -> int:
    """The exit code that `sys.exit` asks for, whose text is printed."""
    if wish.code is None or isinstance(wish.code, int):
        return wish.code or 0
    _say(f"{wish.code}\n")
    return 1


def _say(text: str) -> None:
    """Writes to stderr at once, if there is one: other ranks write to the same log."""
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _show(error: BaseException) -> None:
    """Shows an error as Python does, or whatever hook the script has set, which writes piece by piece."""
    stderr, pieces = sys.stderr, io.StringIO()
    sys.stderr = pieces
    shown = type(error), error, error.__traceback__
    try:
        sys.excepthook(*shown)
    except Exception:  # of the hook, which may want more of a file than this is
        sys.__excepthook__(*shown)
    finally:
        sys.stderr = stderr
        _say(pieces.getvalue())


def main() -> NoReturn:
    """Runs the script that `sys.argv` names after this one, and ends the process as Python does."""
    script, code = sys.argv[1], 0
    try:
        try:
            become_a_new_process(script)
            run(script)
        except SystemExit as wish:
            code = 1
            code = _code_of(wish)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BaseException as error:  # torchrun would keep it for itself
            code = 1
            _show(error.with_traceback(_within_script(error.__traceback__)))
    finally:  # whatever a handler of signals raises meanwhile: torchrun would take that for a return
        # multiprocessing would end it without its threads, its exit functions and what its files still hold.
        ctypes.pythonapi.Py_Exit(code)
    raise AssertionError("a process that has ended goes on")


if __name__ == "__main__":
    main()
