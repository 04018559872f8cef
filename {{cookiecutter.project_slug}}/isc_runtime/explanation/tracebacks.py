"""Exceptions in a log: Python's tracebacks, also chained ones and those that another rank's lines cut up."""

from __future__ import annotations

import re
from dataclasses import dataclass

START = "Traceback (most recent call last):"
GROUP = "Exception Group Traceback (most recent call last):"  # its lines have a margin
MARGIN = re.compile(r"^  [|+] ")
IGNORED = "Exception ignored "  # in what a finalizer raised: the program goes on
CUT = "An exception, whose name is not in the log any more"
CHAINS = ("During handling of the above exception", "The above exception was the direct cause")
FRAME = re.compile(r'^ +File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
EXCEPTION = re.compile(
    r"^(?:\w+\.)*(?:\w*(?:Error|Exception|Exit|Group|Interrupt|Iteration|Warning)|[A-Z]\w*[a-z]\w*(?=: )"
    r"|(?<=\.)[A-Z]\w*)(?::(?: .*)?)?$"
)
BARE = re.compile(
    r"^(?!Aborted$|Killed$|Terminated$)[A-Z]\w*$"
)  # one of train.py's own, without a message: right after the frames
NOT_THE_USERS = re.compile(r"site-packages|dist-packages|/lib/python3|\bisc_runtime/(?!tests/)|^<")
PATIENCE = 20  # lines of others between two lines of a traceback


@dataclass(frozen=True)
class Raised:
    """An exception, as a traceback shows it.

    Attributes:
        text: its last line: the class and the message.
        line: the number of that line.
        code: the innermost line of the user's own code: `model.py:12 in forward`, or "".
        first: the text of the exception that it was raised from, or its own.
    """

    text: str
    line: int
    code: str
    first: str


class Tracebacks:
    """Finds the exceptions in the lines of one process, or of several at once."""

    def __init__(self) -> None:
        self._foreign = 0  # lines since the last one of the traceback
        self._in_frames = False
        self._is_chained = False
        self._is_ignored = False  # what comes next, or is being read, ends nothing
        self._was_ignored = False  # the last one, to which another one may be chained
        self._has_margin = False
        self._begun = 0  # the line with which the last one begins
        self._code = ""
        self._raised: Raised | None = None

    def feed(self, text: str, line: int) -> tuple[bool, Raised | None]:
        """Takes a line.

        Returns:
            Whether it is part of a traceback, and an exception that is complete with the line before it.
        """
        if text == START or text.endswith(GROUP):
            done = None if self._is_chained else self._take()
            self._has_margin = text != START
            self._in_frames, self._is_chained, self._foreign, self._code = True, False, 0, ""
            self._begun = line
            return True, done
        if self._in_frames:
            return self._in_traceback(MARGIN.sub("", text) if self._has_margin else text, line), None
        if text.startswith(IGNORED) or (self._was_ignored and text.startswith(CHAINS)):
            done, self._is_ignored, self._was_ignored = self._take(), True, False
            return True, done
        is_part = self._is_ignored and EXCEPTION.match(text) is not None  # without any frames
        self._is_ignored = self._was_ignored = False
        if is_part:
            return True, None
        if self._raised is not None and text.startswith(CHAINS):
            self._is_chained = True
            return True, None
        return False, self._take()

    def finish(self) -> Raised | None:
        """The exception with which the log ends, if there is one, be it cut off."""
        if self._in_frames and self._foreign == 0 and not self._is_ignored:
            first = self._raised.first if self._raised is not None else CUT
            return Raised(CUT, self._begun, self._code, first)
        return self._take()

    def _take(self) -> Raised | None:
        """The exception that waits for what may follow it, if there is one."""
        done, self._raised, self._is_chained = self._raised, None, False
        return done

    def _in_traceback(self, text: str, line: int) -> bool:
        if text.startswith(" "):
            frame = FRAME.match(text)
            if frame and not NOT_THE_USERS.search(frame["file"]):
                name = frame["file"].replace("\\", "/").rpartition("/")[2]
                self._code = f"{name}:{frame['line']}" + (
                    f" in {frame['function']}" if frame["function"] else ""
                )
            self._foreign = 0
            return True
        if EXCEPTION.match(text) or (self._foreign == 0 and BARE.match(text)):
            first = self._raised.first if self._raised is not None else text
            self._raised = None if self._is_ignored else Raised(text, line, self._code, first)
            self._was_ignored, self._in_frames, self._is_ignored = self._is_ignored, False, False
            return True
        self._foreign += 1
        self._in_frames = self._foreign < PATIENCE
        return False
