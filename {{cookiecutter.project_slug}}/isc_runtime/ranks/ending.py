"""How a program of this project ends: with one message and an exit code, and with all other ranks."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

from isc_runtime.errors import ExitCode, IscError


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends the process when an error leaves the block: a message for an IscError, a traceback for others.

    Outside of `group.process_group` nobody watches yet, so the other ranks of torchrun are told here.
    """
    code = ExitCode.FAILED
    try:
        yield
        return
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except IscError as error:
        problem: Exception = error
        code = error.exit_code
        if code is ExitCode.FAILED and error.__cause__ is not None:  # unforeseen, within an agreement
            traceback.print_exception(error.__cause__)
        sys.stderr.write(f"ERROR: {error}\n")  # one write: other ranks write to the same log
        sys.stderr.flush()
    except Exception as error:
        problem = error
        traceback.print_exc()
    if "TORCHELASTIC_USE_AGENT_STORE" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        with contextlib.suppress(Exception):  # torch itself may be what is missing
            from isc_runtime.ranks.watch import announce_early

            announce_early(problem)
    raise SystemExit(code)
