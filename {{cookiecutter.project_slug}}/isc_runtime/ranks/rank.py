"""A rank that was forked from the server: becomes what `python -u SCRIPT ARGUMENTS` would be, and runs that.

    rank.py SCRIPT ARGUMENTS            torchrun runs this file in the fork

What is other in a fork than in a new process is put right. Where that is not possible, the fork becomes a new
process under the same number: slower, and never wrong.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from isc_runtime.ranks import fork_server
from isc_runtime.ranks.interruption import end_with_launcher

RUNTIME = Path(__file__).resolve().parent.parent
HOOKS = ("ISC_REHEARSAL_TRACE", "COVERAGE_PROCESS_START")  # these look at each process as Python starts it


def run(script: str) -> NoReturn:
    """Runs a script, whose arguments are in `sys.argv`, and ends this process with its exit code.

    Raises:
        SystemExit: always. Whoever returned would wait in torchrun's code until all other ranks have ended.
    """
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as wish:
        raise SystemExit(wish.code or None) from None  # torchrun's code takes a 0 for a return
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BaseException as error:
        shown = error.with_traceback(_within(script, error.__traceback__))
        sys.excepthook(type(shown), shown, shown.__traceback__)
        raise SystemExit(1) from None
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing ends without
    raise SystemExit


def _within(script: str, trace: TracebackType | None) -> TracebackType | None:
    """A traceback without what is above the script."""
    below = trace
    while below is not None and below.tb_frame.f_code.co_filename != script:
        below = below.tb_next
    return below or trace


def is_like_new(script: Path) -> bool:
    """Whether this fork can be what a new process would be.

    It cannot if an import woke up CUDA, or started a thread, which a fork has not; if something wants to be
    there when Python starts; or if the script brings another isc_runtime.
    """
    files = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    brings = script.parent / RUNTIME.name
    return (
        not fork_server.has_threads
        and not any(file.startswith("/dev/nvidia") for file in files)
        and not any(hook in os.environ for hook in HOOKS)
        and (not brings.exists() or brings.samefile(RUNTIME))
    )


def main() -> None:
    """Runs the script, in this process or in a new one."""
    script = Path(sys.argv[1])
    end_with_launcher()
    if os.getppid() != fork_server.server:  # it ended before this was asked for
        raise SystemExit(128 + signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, fork_server.SIGNALS)
    os.setsid()  # as torchrun does: Ctrl-C goes to torchrun alone, which passes it on
    if not is_like_new(script):
        os.execv(sys.executable, [sys.executable, "-u", *sys.argv[1:]])
    multiprocessing.set_start_method(None, force=True)  # the workers of a rank start as they always do
    sys.path[0] = str(script.resolve().parent)
    del sys.argv[0]
    run(str(script))


if __name__ == "__main__":
    main()
