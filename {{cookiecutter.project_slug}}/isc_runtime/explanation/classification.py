"""Which cause a line, an exception or an exit code is a sign of. The first pattern that matches counts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from isc_runtime.explanation import own
from isc_runtime.explanation.cause import Cause
from isc_runtime.explanation.cuda import CUDA_CAUSES
from isc_runtime.explanation.python import EXCEPTION, PYTHON_CAUSES

Classified = tuple[Cause, dict[str, str]]
FOREIGN = (*CUDA_CAUSES, *PYTHON_CAUSES)
CAUSES = (*own.MESSAGES, *own.LOGGED, *own.LAUNCHED, *own.EXITS, *FOREIGN, EXCEPTION)
ERROR = re.compile(own.ERROR)
# A line of interest holds one of these. Most lines of a log do not, and all patterns would take long.
WORDS = (
    *("error", "exception", "fail", "exited", "killed", "signal", "interrupt", "terminate", "oom", "memory"),
    *("no such", "no module", "not found", "cannot open", "denied", "refused", "timed out", "not connected"),
    *("reset by", "broken pipe", "in use", "eaddr", "no space", "enospc", "quota", "read-only", "too many"),
    *("stale", "segmentation", "watchdog", "nccl", "cuda", "cudnn", "cublas", "nvidia", "nvrm", "gpu", "ecc"),
    *("fallen off", "device", "assert", "kernel image", "resol", "not known", "retries", "can't open"),
    *("aborted", "illegal instruction", "():", "corrupt"),
)
WARNING = re.compile(r"\b[A-Za-z]*Warning: ")  # after it a program goes on


def classify_line(text: str) -> Classified | None:
    """A line of no special form."""
    if text.startswith(own.LAUNCHER):
        return _first(own.LAUNCHED, text)
    lowered = text.lower()
    is_of_interest = any(word in lowered for word in WORDS) and not WARNING.search(text)
    return _first(FOREIGN, text) if is_of_interest else None


def classify_error(text: str) -> Classified | None:
    """A line of ours that starts with ERROR: what a rank, or launch.sh, says before it ends."""
    match = ERROR.match(text)
    if match is None:
        return None
    message = match["message"]
    who = {name: match[name] for name in ("rank", "host") if match[name]}
    found = _first((*own.MESSAGES[:-1], *FOREIGN), message)
    if found is None and re.match(r"(?:\w+\.)*\w*(?:Error|Exception|Exit):(?: |$)", message):
        found = _first([EXCEPTION], message)
    cause, facts = found or (own.MESSAGES[-1], {})
    return cause, {"message": message, **facts, **who, "said": message}


def classify_exception(*texts: str) -> Classified:
    """An exception; of several texts the first one that says more than that it is one."""
    found = [classified for text in texts if (classified := _first(FOREIGN, text))]
    return found[0] if found else _first([EXCEPTION], texts[0]) or (EXCEPTION, {"exception": texts[0]})


def classify_logged(text: str, is_error: bool) -> Classified | None:
    """The message of a logger's line; anything but our own only where its level says that it is an error."""
    return _first(own.LOGGED, text) or (_first(FOREIGN, text) if is_error else None)


def classify_exit(code: int) -> Classified:
    """The exit code of a rank, as a shell says it."""
    found = _first(own.EXITS, f"exit code {code}")
    assert found is not None  # the last pattern matches each number
    return found


def _first(causes: Iterable[Cause], text: str) -> Classified | None:
    for cause in causes:
        if match := cause.expression.search(text):
            return cause, {name: value for name, value in match.groupdict().items() if value}
    return None
