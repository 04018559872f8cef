"""torchrun, but it ends with the exit code of the rank that ended first.

torchrun itself ends with 1 and a traceback of its own, whatever happened. On the ISC the exit code is what
says how a training ended, so launch.sh starts the processes of a node with `python -m isc_runtime torchrun`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def torchrun(arguments: list[str]) -> int:
    """Runs torchrun with its own `arguments`, to its end.

    Returns:
        0 if all ranks of this node ended with 0; the exit code of the one that failed first; 128 + the number
        of the signal that ended it, or that this process was asked to stop with. Never 0 for a training that
        was stopped: the ISC reads 0 as completed.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except SignalException as stop:  # the ranks got the signal too, and have ended
        _pass_on(stop.sigval)
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        sys.stderr.write(f"torchrun: rank {rank} ended first, with exit code {code}\n")
        return code
    return 0


def _pass_on(signal_number: int) -> None:
    """Signals what is still there: torchrun forgets ranks that it has started a moment ago (Linux)."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(child), signal_number)
