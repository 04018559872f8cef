"""How a program of this project ends: with one message and an exit code, and with all other ranks."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.ending import say


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends the program when an error leaves the block: a message for an IscError, a traceback for others.

    Windows itself is refused before the block begins: files and processes there follow other rules.
    Outside of `group.process_group` nobody watches yet, so the other ranks of torchrun are told here.

    Raises:
        SystemExit: there was an error; its code is that of the IscError, 130 after Ctrl-C, 1 for all others.
    """
    try:
        if sys.platform == "win32":
            raise IscError(
                "This is Windows itself", "", "Run it in WSL 2: its Linux is what this is made for."
            )
        yield
        return
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        code = error.exit_code if isinstance(error, IscError) else ExitCode.FAILED
        for last_words in (_explain, _tell_other_ranks):
            with contextlib.suppress(Exception):  # a full disk or a closed pipe changes no exit code
                last_words(error)
    raise SystemExit(code)


def _explain(error: Exception) -> None:
    cause: BaseException | None = error
    if isinstance(error, IscError):  # the traceback is of use only if nobody foresaw what is behind it
        cause = error.__cause__ if error.exit_code is ExitCode.FAILED else None
    if cause is not None:
        say("".join(traceback.format_exception(cause)).rstrip())
    if isinstance(error, IscError):
        say(f"ERROR: {error}")


def _tell_other_ranks(error: Exception) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        from isc_runtime.ranks.watch import announce_early  # torch itself may be what is missing

        announce_early(error)


def said_by_exit(error: SystemExit) -> IscError:
    """What `sys.exit(...)` on one rank means for all of them: an exit code, or a text to print."""
    if isinstance(error.code, int) and error.code in set(ExitCode):
        return IscError("The training ended itself (sys.exit)", exit_code=ExitCode(error.code))
    return IscError(f"The training ended itself (sys.exit: {error.code})", exit_code=ExitCode.FAILED)
