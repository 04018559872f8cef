"""SIGSTOP at every system call that heals, resumes, saves and tidies; another run takes over; then it wakes.

Nothing that the other run has acknowledged is lost, and the one that was frozen ends with its message. The
folder of a laptop has no locks here, as on some network file systems: with one nobody could take over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import SOAK
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group, process_group
from ranks import free_port
from strace import Call, attach, mutating_calls, needs_strace
from test_kill_every_call import RUNS, Tell, left_behind, make
from trainee import Child, Trainee, fork, writer_thread

__all__ = ["left_behind"]  # a fixture
EVERY = {1: 3, 2: 9}  # by ranks: each so-manieth call in CI, and all of them in the soak: ten minutes
OPTIONS: dict[str, Any] = {"keep_checkpoints": 1}


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def heal_and_save(
    kind: str, directory: Path, traced: str, sharded: bool, go: int, tell: Tell, group: Group
) -> None:
    """What the frozen run does; when it wakes it goes on saving, and must find out that it was replaced."""
    if traced == "main":
        tell(str(os.getpid()))
        os.read(go, 1)
    trainee = Trainee(kind, directory, group, sharded, **OPTIONS)
    trainee.store.keep = 1
    if traced.endswith("writer"):
        tell(str(writer_thread()))
        os.read(go, 1)
    group.master(lambda: trainee.store.begin_start(CheckpointOptions()))
    trainee.checkpointer.restore()
    for _ in range(2):
        trainee.train()
        trainee.checkpointer.save()
        trainee.checkpointer.finish()
    trainee.checkpointer.equipment.writer.submit(int).result()  # what is superfluous is deleted
    tell("has saved")
    os.read(go, 1)
    for _ in range(2):
        trainee.train()
        trainee.checkpointer.save()
        trainee.checkpointer.finish()


class Trial:
    """A run in a copy of `original` that is stopped at a system call, if one is given.

    Attributes:
        code: what the rank under strace ended with.
        trace: of it.
    """

    def __init__(
        self, kind: str, original: Path, place: Path, run: tuple[str, int, bool], inject: str = ""
    ) -> None:
        self.kind, self.place = kind, place
        self.traced, self.ranks, self.sharded = run
        self.directory = place / "checkpoints"
        self.trace = place / "trace"
        shutil.copytree(original, self.directory, symlinks=True)
        self._reading, writing = os.pipe()
        port = free_port()
        struck = 1 if self.traced == "other writer" else 0
        others = [self._start(1 - struck, "none", port)] if self.ranks == 2 else []
        child = self._start(struck, self.traced, port)
        os.close(self._reading)
        with os.fdopen(child.says) as says:
            strace = attach(int(says.readline()), self.trace, inject)
            os.write(writing, b"g")
            if inject:
                self._wait_until_it_is_frozen(strace)
                self.successor = self._successor()
                os.kill(child.pid, signal.SIGCONT)
            else:
                assert says.readline() == "has saved\n", (place / "log").read_text()
                strace.terminate()
                strace.wait()
            os.write(writing, b"gggg")
            os.close(writing)
            says.read()
        self.code = child.wait()
        for other in others:
            other.wait()
            os.close(other.says)

    def _start(self, rank: int, thread: str, port: str) -> Child:
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.ranks)}

        def work(tell: Tell) -> None:
            os.environ.update(variables, GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            try:
                with process_group(Environment.read(), 60, 60) as group:
                    heal_and_save(self.kind, self.directory, thread, self.sharded, self._reading, tell, group)
            except IscError as error:
                print(error)
                raise SystemExit(int(error.exit_code)) from None

        return fork(work, self.place / ("log" if thread == self.traced else "log1"))

    def _wait_until_it_is_frozen(self, strace: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 30
        while "stopped by SIGSTOP" not in self.trace.read_text():
            assert time.monotonic() < deadline, self.trace.read_text()
            time.sleep(0.01)
        strace.terminate()  # which leaves it stopped
        strace.wait()

    def _successor(self) -> list[str]:
        """Heals, resumes, and saves twice; what it said: its last step, and the fingerprint there."""

        def work(tell: Tell) -> None:
            trainee = Trainee(self.kind, self.directory, **OPTIONS)
            trainee.store.keep = 1
            trainee.checkpointer.restore()
            for _ in range(2):
                trainee.train()
                trainee.checkpointer.save()
                trainee.checkpointer.finish()
            trainee.checkpointer.equipment.writer.submit(int).result()
            tell(str(trainee.step))
            tell(repr(trainee.fingerprint()[:-1]))

        return self._outcome(work)

    def resumed(self) -> list[str]:
        """What the next run goes on from."""

        def work(tell: Tell) -> None:
            trainee = Trainee(self.kind, self.directory, **OPTIONS)
            trainee.checkpointer.restore()
            tell(str(trainee.step))
            tell(repr(trainee.fingerprint()[:-1]))

        return self._outcome(work)

    def _outcome(self, work: object) -> list[str]:
        child = fork(work, self.place / "log2")  # type: ignore[arg-type]
        said = child.said()
        assert child.wait() == 0, (self.place / "log2").read_text()
        return said


@needs_strace
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_run_that_is_frozen_at_a_call_and_replaced_changes_nothing(
    left_behind: tuple[str, Path],
    tmp_path: Path,
    run: tuple[str, int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    kind, original = left_behind
    whole = Trial(kind, original, make(tmp_path / "whole"), run)
    assert whole.code == 0, (tmp_path / "whole" / "log").read_text()
    calls = mutating_calls(whole.trace, whole.directory)
    if run[0] == "main":  # before it has its folder it has not begun
        begun = next(n for n, call in enumerate(calls) if call.name == "mkdir" and ".isc-run-" in call.text)
        calls = calls[begun:]
    assert calls
    failures = []
    chosen = calls if SOAK > 1 else calls[:: EVERY[run[1]]]
    for number, call in enumerate(chosen):
        try:
            frozen_at(call, kind, original, make(tmp_path / str(number)), run)
        except AssertionError as error:
            failures.append(f"frozen at {call}: {error}")
        shutil.rmtree(tmp_path / str(number))
    print(f"{kind}, {run}: frozen at {len(chosen)} of {len(calls)} calls")
    assert not failures, "\n".join(failures)


def frozen_at(call: Call, kind: str, original: Path, place: Path, run: tuple[str, int, bool]) -> None:
    trial = Trial(kind, original, place, run, f"{call.name}:signal=STOP:when={call.number}")
    said = "".join(log.read_text() for log in sorted(place.glob("log*")))
    assert trial.code == ExitCode.TAKEN, f"exit code {trial.code}\n{said}"
    assert "Another run has taken over this checkpoint directory" in said
    assert trial.resumed() == trial.successor
