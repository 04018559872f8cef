"""torchrun, but it ends with the exit code of the rank that ended first, and its ranks start sooner.

torchrun itself ends with 1 and a traceback of its own, whatever happened. On the ISC the exit code is what
says how a training ended, so launch.sh starts the processes of a node with `python -m isc_runtime torchrun`.

On Linux ranks are forks of one process in which torch is imported already (see `fork_server`). torchrun has
that for functions, and `rank.py` is the function: it runs the script.

When torchrun is asked to stop, it would kill ranks that still save after 30 s; here they have as long as a
save may take.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from isc_runtime.config import seconds_in
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.launching import fork_server

RANK = Path(__file__).with_name("rank.py")
MARGIN = 15  # seconds in which ranks end beside their last save
KILLED = 128 + signal.SIGKILL


def torchrun(arguments: list[str]) -> int:
    """Runs torchrun with its own `arguments`, to its end.

    Returns:
        0 if all ranks of this node ended with 0; the exit code of the one that failed first; 128 + the number
        of the signal that ended it, or that this process was asked to stop with; 137 if it was asked to stop
        and a rank was killed before it had saved. Never 0 for a training that was stopped: the ISC reads 0
        as completed.
    """
    _set_threads(arguments)
    from torch.distributed.elastic.multiprocessing.api import PContext
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(arguments)  # type: ignore[no-untyped-call]
    if options.shutdown_timeout is None and "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" not in os.environ:
        words = [options.training_script, *options.training_script_args]
        longest_save = seconds_in(words, "--save-timeout", CheckpointOptions().save_timeout)
        options.shutdown_timeout = MARGIN + int(longest_save)
    options.signals_to_handle = _not_ignored(options.signals_to_handle)
    is_script = not (options.no_python or options.module or options.run_path)
    # A number that torchrun finds out itself decides about OMP_NUM_THREADS when all is imported.
    if sys.platform == "linux" and is_script and str(options.nproc_per_node).isdecimal():
        _fork_ranks(options)
    noted = Noted()
    try:
        with noted.of(PContext), tempfile.TemporaryDirectory(prefix="isc-torchrun-") as folder:
            options.log_dir = options.log_dir or folder  # torchrun would leave a folder of its own behind
            run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        sys.stderr.write(f"torchrun: rank {rank} ended first, with exit code {code}\n")
        return code
    except Exception:
        if noted.signal is None:
            raise
    return 0 if noted.signal is None else _stopped(noted.signal, noted.killed)


def _stopped(number: signal.Signals, killed: bool) -> int:
    """The exit code of what was asked to stop. The ranks got the signal too, and have ended."""
    _pass_on(number, os.getpid())
    if not killed:
        return 128 + number
    sys.stderr.write(
        f"torchrun: asked to stop by signal {int(number)}, and ranks were killed before they "
        "had saved (exit code 137): a start goes on from the last completed save. A save that needs "
        "longer is waited for with --save-timeout.\n"
    )
    return KILLED


def _not_ignored(names: str) -> str:
    """Of signals those that nobody wants to be ignored, as nohup does: torchrun would stop at all of them."""
    handled = [name.strip() for name in names.split(",")]
    return ",".join(name for name in handled if _handler(name) is not signal.SIG_IGN)


def _handler(name: str) -> object:
    number = getattr(signal, name, None)  # torchrun tells what is no signal
    return None if number is None else signal.getsignal(number)


class Noted:
    """What torchrun forgets, or loses.

    Attributes:
        signal: that asked it to stop. Its handler raises an exception, wherever torchrun is at that moment:
            where it formats a line of its log, and where the next line raises another one instead.
        killed: whether a rank was killed while torchrun waited for its end.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.killed = False

    @contextlib.contextmanager
    def of(self, context: Any) -> Iterator[None]:
        """Notes it within the block.

        Args:
            context: torchrun's PContext, which starts ranks, looks at them and ends them.
        """
        module: Any = sys.modules[context.__module__]
        handler, close, wait = module._terminate_process_handler, context.close, context.wait

        def stop(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            handler(number, frame)

        def look(ranks: Any, *arguments: Any, **options: Any) -> Any:
            if self.signal is not None:
                handler(self.signal, None)
            return wait(ranks, *arguments, **options)

        def end(ranks: Any, *arguments: Any, **options: Any) -> None:
            handlers = getattr(ranks, "subprocess_handlers", {}).values()
            forks = getattr(getattr(ranks, "_pc", None), "processes", [])
            close(ranks, *arguments, **options)
            codes = [one.proc.returncode for one in handlers] + [fork.exitcode for fork in forks]
            self.killed = self.killed or -signal.SIGKILL in codes

        module._terminate_process_handler, context.close, context.wait = stop, end, look
        try:
            yield
        finally:
            module._terminate_process_handler, context.close, context.wait = handler, close, wait


def _set_threads(arguments: list[str]) -> None:
    """Sets what torchrun sets for more than one rank; libraries read it when they are imported."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    default = os.environ.get("PET_NPROC_PER_NODE", "1")
    parser.add_argument("--nproc-per-node", "--nproc_per_node", default=default)
    with contextlib.suppress(argparse.ArgumentError):  # torchrun says what is wrong
        number = parser.parse_known_args(arguments)[0].nproc_per_node
        if number.isdecimal() and number != "1":
            os.environ.setdefault("OMP_NUM_THREADS", "1")


def _fork_ranks(options: argparse.Namespace) -> None:
    """Lets torchrun fork the ranks, if forks of this process do as well as new ones."""
    if not fork_server.start(Path(options.training_script)):
        return
    from torch.distributed.elastic import multiprocessing as launchers

    class Forks(launchers.MultiprocessContext):
        """Ranks in forks, which return nothing: they end."""

        def _start(self) -> None:
            # One that returns all the same, in the middle of its end, does not wait until all have.
            self._worker_finished_event.set()
            super()._start()  # type: ignore[no-untyped-call]

        def _poll(self) -> Any:
            for rank, process in enumerate(self._pc.processes if self._pc else ()):
                if process.exitcode == 0:
                    self._return_values.setdefault(rank, None)
            return super()._poll()

    options.training_script_args = [options.training_script, *options.training_script_args]
    options.training_script, options.run_path, options.start_method = str(RANK), True, "forkserver"
    launchers.MultiprocessContext = Forks  # type: ignore[misc]
    logging.getLogger(launchers.api.__name__).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None  # torchrun's own; the rank has said what happened
    return True


def _pass_on(signal_number: int, pid: int) -> None:
    """Signals what is still there: torchrun forgets ranks that it has started a moment ago (Linux)."""
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            os.kill(child, signal_number)
            _pass_on(signal_number, child)
