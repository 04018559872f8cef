"""The end of a process comes whatever becomes of its log: full, closed, without a reader, or slow."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.errors import ExitCode
from isc_runtime.ranks import ending
from isc_runtime.tests.processes import UNSET, Place, run_forked
from isc_runtime.tests.ranks import fallible_ranks

SLOW = 0.6  # seconds for each word


def onto(descriptor: int) -> None:
    for number in (1, 2):
        os.dup2(descriptor, number)


def full() -> None:
    onto(os.open("/dev/full", os.O_WRONLY))


def closed() -> None:
    for number in (1, 2):
        os.close(number)


def without_a_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    onto(writing)


def that_nobody_reads() -> None:
    """A pipe that is full: whoever writes waits, for ever."""
    _, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    onto(writing)


CASES = [
    (full, "alone", ExitCode.DATA),
    (full, "late", ExitCode.PEER),  # what only the watch can notice
    (closed, "unforeseen", ExitCode.FAILED),
    (without_a_reader, "in an agreement", ExitCode.DATA),
    (that_nobody_reads, "unforeseen", ExitCode.FAILED),
    (that_nobody_reads, "late", ExitCode.PEER),
]


@pytest.mark.parametrize(("log", "how", "code"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
def test_all_ranks_end_with_their_code_though_nothing_can_be_said(
    tmp_path: Path, log: Callable[[], None], how: str, code: int
) -> None:
    def work() -> None:
        log()
        fallible_ranks.main(how)

    ended = run_forked(tmp_path, work)  # which waits two minutes, and not half an hour
    assert [one.code for one in ended] == [code] * 2


def test_the_traceback_is_there_though_the_log_is_slow(tmp_path: Path) -> None:
    """The other rank, and this one's own watch, know of the failure long before it is said."""

    def work() -> None:
        write = sys.stderr.write

        def slowly(text: str) -> int:
            time.sleep(SLOW)
            return write(text)

        # The whole of it in one write: as a file on a slow network takes it.
        sys.stderr.write = slowly  # type: ignore[method-assign]
        fallible_ranks.main("unforeseen")

    ended = run_forked(tmp_path, work)
    assert [one.code for one in ended] == [ExitCode.FAILED] * 2, ended
    said = ended[1].output
    assert "Traceback (most recent call last)" in said
    assert "ZeroDivisionError: nobody saw it coming" in said


@pytest.mark.parametrize(("wish", "code"), [("'my reason'", 1), ("4", 4)])
def test_what_sys_exit_says_on_one_rank_is_said_and_ends_all(tmp_path: Path, wish: str, code: int) -> None:
    def work() -> None:
        os.environ["WISH"] = wish
        fallible_ranks.main("sys.exit")

    ended = run_forked(tmp_path, work)
    assert [one.code for one in ended] == [code, code], ended
    (error,) = re.findall(r"ERROR: rank 1 on .*", ended[1].output)
    assert "The training ended itself" in error
    assert code != 1 or "my reason" in error


def test_a_rank_that_ends_itself_with_0_says_so_and_the_others_say_which(tmp_path: Path) -> None:
    def work() -> None:
        os.environ["WISH"] = "0"
        fallible_ranks.main("sys.exit")

    other, leaving = run_forked(tmp_path, work)
    assert (other.code, leaving.code) == (ExitCode.PEER, 0), (other, leaving)
    assert re.search(r"rank 1 on .*The training ended itself .* before it was complete", leaving.output)
    assert re.search(r"ERROR: .*rank 1 on \S+ ended itself with exit code 0", other.output)
    assert "killed" not in other.output


def test_the_end_of_a_fork_is_not_that_of_its_parent(tmp_path: Path) -> None:
    """What the parent does last may wait for a lock that one of its threads had at the time of the fork."""
    told = tmp_path / "told"
    ending.at_end(lambda code: told.write_text("by the parent's own function"))
    try:
        ended = run_forked(tmp_path, lambda: ending.end(ExitCode.DATA), ranks=1)
    finally:
        ending._at_end.pop()
    assert [one.code for one in ended] == [ExitCode.DATA]
    assert not told.exists()


FULL, CLOSED, NO_READER = ">/dev/full 2>&1", ">&- 2>&-", "2>&1 | true"


@pytest.mark.parametrize(
    ("ranks", "redirection"), [(1, FULL), (1, CLOSED), (1, NO_READER), (2, FULL), (2, CLOSED)]
)
def test_a_training_trains_though_nothing_can_be_said(tmp_path: Path, ranks: int, redirection: str) -> None:
    place = Place(tmp_path, variables={"PYTHONUNBUFFERED": UNSET})
    torchrun = f"-m isc_runtime torchrun --standalone --nproc-per-node={ranks}" if ranks > 1 else ""
    command = f"{sys.executable} {torchrun} {shlex.quote(str(place.script))} --epochs 1 {redirection}"
    code = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env=place.environment(),
        stderr=subprocess.DEVNULL,
        timeout=120,
        check=False,
    ).returncode
    assert place.newest()["sampler"]["epoch"] == 1
    assert code == 0
