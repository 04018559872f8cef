"""What goes wrong in a way that a person must fix, and the exit code that says which kind it was."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a run ends. A run that was asked to stop ends with 128 + the signal's number instead."""

    COMPLETED = 0
    FAILED = 1  # an error nobody foresaw: a traceback is printed
    USAGE = 2  # argparse's own code for arguments it does not understand
    UNFIT = 3  # this place is not ready to train in: a variable, a directory, a missing package
    DATA = 4  # the data are missing or malformed
    CHECKPOINT = 5  # there are checkpoints, and none can be used
    SAVE = 6  # checkpoints could not be saved, several times in a row
    DIVERGED = 7  # the loss was not finite, several times in a row
    PEER = 8  # another rank is gone or makes no progress
    TAKEN = 9  # another run has the checkpoint directory, or has taken it over
    FRUITLESS = 10  # several starts in a row have saved nothing


START_OVER = (
    "start over with --fresh, which moves the checkpoints to set-aside/ (the ISC is not sure to keep that)"
)


class IscError(Exception):
    """An error with its cure.

    Args:
        what: what is wrong, without a full stop.
        where: the path, variable or file it is about.
        hint: what to do, as a sentence.
        exit_code: what the process ends with when nobody handles it.
    """

    def __init__(
        self, what: str, where: object = "", hint: str = "", exit_code: ExitCode = ExitCode.UNFIT
    ) -> None:
        super().__init__(what, str(where), hint, exit_code)  # all of it, so that it survives pickling
        self.what = what
        self.where = str(where)
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.what, self.where))) + (f". {self.hint}" if self.hint else "")
