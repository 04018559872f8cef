"""A log becomes attempts: how far each start of the experiment came, and what it said that matters."""

from __future__ import annotations

import re
from collections import deque
from datetime import datetime, timezone
from pathlib import Path

from isc_runtime.explanation.attempt import Attempt, Exit
from isc_runtime.explanation.cause import Event, Kind
from isc_runtime.explanation.classification import (
    Classified,
    classify_error,
    classify_exception,
    classify_exit,
    classify_line,
    classify_logged,
)
from isc_runtime.explanation.log_lines import Line, read_lines
from isc_runtime.explanation.tracebacks import Raised, Tracebacks

KEPT = 200  # attempts of a log, the last ones
RANKS = 64  # of a node, of which prefixed lines and exits are told apart
# torch and torchrun put the rank in front of what a process says.
PREFIX = re.compile(r"^\[(?P<kind>rank|default|trainer)(?P<rank>\d+)\]: ?")
LOGGED = re.compile(
    r"^(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[,.]\d+ - \S+ - (?P<level>[A-Z]+) - (?P<text>.*)"
)
GLOG = re.compile(r"^[IWEF](?P<month>\d\d)(?P<day>\d\d) (?P<time>\d\d:\d\d:\d\d)\.\d+ ")
FIRST_CHECKS = "EARLY CHECKPOINT DIRECTORY VALIDATION"
ON_ISC = "ISC Mode: True"
MASTERS, NOT_MASTERS = "Is Master Process: True", "Is Master Process: False"  # of a node's first checks
STEP = re.compile(r"\bstep (\d+)")
EPOCH = re.compile(r"\bepoch (\d+)")
# torchrun's words for how a rank ended: through isc_runtime, its own log line, its own summary.
ENDED = re.compile(r"^torchrun: rank (?P<rank>\d+) ended first, with exit code (?P<code>\d+)\b")
FAILED = re.compile(r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: \d+ \(pid:")
SUMMARY = "Root Cause (first observed failure)"
SUMMED = re.compile(r"^ +(?P<name>rank|exitcode) +: (?P<value>-?\d+)")


class Reader:
    """Reads one log.

    Args:
        file: the log.
        name: how it is called in what is said about it.

    Attributes:
        attempts: the last ones, oldest first; at least one when the log holds anything.
        number: how many there were.
        resumes: how many of them went on from a checkpoint.
    """

    def __init__(self, file: Path, name: str) -> None:
        self.attempts: deque[Attempt] = deque(maxlen=KEPT)
        self.number = 0
        self.resumes = 0
        self._name = name
        self._year = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).year
        self._time: float | None = None
        self._tracebacks: dict[str, Tracebacks] = {}
        self._summed: dict[str, int] | None = None
        self._has_masters = False
        self._is_shared = False  # by several nodes
        for line in read_lines(file):
            self._read(line)
        for prefix, tracebacks in self._tracebacks.items():
            self._raised(tracebacks.finish(), prefix)

    def _read(self, line: Line) -> None:
        match = PREFIX.match(line.text)
        prefix = match[0] if match else ""
        text = line.text[len(prefix) :]
        if FIRST_CHECKS in text or not self.attempts:
            self._begin(line.number)
        elif text.endswith((MASTERS, NOT_MASTERS)):
            self._unite(text.endswith(MASTERS))
        attempt = self.attempts[-1]
        if text.endswith(MASTERS):
            attempt.is_masters = self._has_masters = True
        self._is_shared = self._is_shared or (self._has_masters and text.endswith(NOT_MASTERS))
        attempt.last_line, attempt.last_text, attempt.is_cut = line.number, line.text, not line.is_whole
        attempt.is_on_isc = attempt.is_on_isc or ON_ISC in text
        attempt.is_checked = attempt.is_checked or FIRST_CHECKS in text
        is_part = self._in_traceback(text, line.number, prefix)
        if logged := LOGGED.match(text):
            self._logged(logged, line)
        elif not is_part:
            self._said(text, line, prefix)

    def _begin(self, number: int) -> None:
        self.attempts.append(Attempt(self._name, number))
        self.number += 1
        self._time = None if self.number == 1 else self._time
        self._summed = None

    def _unite(self, is_masters: bool) -> None:
        """Where several nodes write into this log, what has just begun may be part of the start before."""
        if len(self.attempts) < 2 or not (self.attempts[-1].is_awaited and self.attempts[-2].is_checked):
            return
        others_began = not self._has_masters or self.attempts[-2].is_awaited
        if others_began if is_masters else self._has_masters:
            self.attempts.pop()
            self.number -= 1
            self._is_shared = True

    def _logged(self, logged: re.Match[str], line: Line) -> None:
        attempt = self.attempts[-1]
        self._clock(logged["time"])
        if not line.is_whole:
            return  # its numbers may be cut
        self._proceed(attempt, logged["text"], line.number)
        is_error = logged["level"] in ("ERROR", "CRITICAL")
        if is_error or logged["level"] == "WARNING" or "[" not in logged["text"]:
            classified = classify_logged(logged["text"], is_error)
            is_logged = classified is not None and classified[0].kind is not Kind.END
            self._add(classified, line.text, line.number, is_logged=is_logged)

    def _proceed(self, attempt: Attempt, text: str, number: int) -> None:
        """How far the training is, from a line of its loggers."""
        step = int(found[1]) if (found := STEP.search(text)) else None
        if text.startswith(("Resumed from", "No checkpoint in")):
            is_repeated = self._is_shared and attempt.began_at == (step or 0)  # by another node
            if attempt.began_at is not None and not is_repeated:  # a new start, without the first checks
                self._begin(number)
                attempt = self.attempts[-1]
                attempt.last_line = number
            attempt.began_at, attempt.began_line = step or 0, number
            self.resumes += text.startswith("Resumed from")
            attempt.is_masters = True
        elif found := EPOCH.search(text):
            attempt.epoch = int(found[1])
        if "[FAILED]" in text:
            attempt.failed_saves += 1
            attempt.saving_step = None
        elif "[ATTEMPT]" in text:
            attempt.saving_step = step
        elif "[COMPLETE]" in text:
            attempt.saved_step = step
        if step is not None and step > (-1 if attempt.step is None else attempt.step):
            attempt.step = step
            attempt.marks += 1

    def _in_traceback(self, text: str, number: int, prefix: str) -> bool:
        key = prefix if len(self._tracebacks) < RANKS else ""
        is_part, raised = self._tracebacks.setdefault(key, Tracebacks()).feed(text, number)
        self._raised(raised, key)
        return is_part

    def _raised(self, raised: Raised | None, prefix: str) -> None:
        if raised is not None:
            cause, facts = classify_exception(raised.text, raised.first)
            self._add((cause, {**_rank(prefix), **facts}), raised.text, raised.line, raised.code)

    def _said(self, text: str, line: Line, prefix: str) -> None:
        if stamp := GLOG.match(text):
            self._clock(f"{self._year}-{stamp['month']}-{stamp['day']} {stamp['time']}")
        if self._has_ended(text, line):
            return
        if text.startswith((" ", "frame #")):
            return  # part of something that was said before
        if classified := classify_error(text):
            self._add(classified, line.text, line.number, is_reason="rank" in classified[1])
        elif classified := classify_line(text):
            cause, facts = classified
            self._add((cause, {**_rank(prefix), **facts}), line.text, line.number)

    def _has_ended(self, text: str, line: Line) -> bool:
        """Whether this says how a rank ended."""
        if not line.is_whole:
            return False
        if match := ENDED.match(text):
            self._ended(int(match["code"]), int(match["rank"]), line)
        elif match := FAILED.search(text):
            self._ended(int(match["code"]), None, line)
        elif SUMMARY in text:
            self._summed = {}
        elif self._summed is not None and (match := SUMMED.match(text)):
            self._summed[match["name"]] = int(match["value"])
            if len(self._summed) == 2:
                rank, code = self._summed["rank"], self._summed["exitcode"]
                self._ended(code, rank, line._replace(text=f"{SUMMARY}: rank {rank}, exitcode {code}"))
                self._summed = None
        else:
            return False
        return True

    def _ended(self, code: int, rank: int | None, line: Line) -> None:
        code = code if code >= 0 else 128 - code
        cause, facts = classify_exit(code)
        if rank is not None:
            facts["rank"] = str(rank)
        event = self._event((cause, facts), line.text, line.number)
        exits = self.attempts[-1].exits
        if exits and exits[-1].rank is None and exits[-1].code == code:
            exits.pop()  # the same end, told by torchrun's own line without the rank
        if len(exits) < RANKS:
            exits.append(Exit(code, rank, event))

    def _add(
        self, classified: Classified | None, text: str, number: int, code: str = "", **marks: bool
    ) -> None:
        if classified is not None:
            self.attempts[-1].add(self._event(classified, text, number, code, **marks))

    def _event(self, classified: Classified, text: str, number: int, code: str = "", **marks: bool) -> Event:
        cause, facts = classified
        mark = self.attempts[-1].marks
        return Event(cause, text, self._name, number, self._time, facts, code, mark=mark, **marks)

    def _clock(self, text: str) -> None:
        try:
            self._time = datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            return  # no such day: not a time after all
        attempt = self.attempts[-1]
        attempt.began = self._time if attempt.began is None else attempt.began
        attempt.ended = self._time


def _rank(prefix: str) -> dict[str, str]:
    """The rank that torch has put in front of a line; torchrun puts a number within its node there."""
    match = PREFIX.match(prefix)
    return {"rank": match["rank"]} if match and match["kind"] == "rank" else {}
