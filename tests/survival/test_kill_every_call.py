"""SIGKILL at every system call that heals, resumes and saves: the next run goes on, in the right state."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.environment import Environment
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group, process_group
from ranks import free_port
from strace import Call, attach, mutating_calls, needs_strace
from trainee import Trainee, fork, uninterrupted, writer_thread

# what each thread must be seen doing, or the test has lost sight of what it is about
THREADS = {
    "main": {"unlink", "mkdir", "symlink", "rename", "fsync"},
    "writer": {"openat", "write", "fsync", "rename"},
    "other writer": {"openat", "write", "fsync"},  # of the rank that is not the master
}
RUNS = [  # the thread, how many ranks, whether they share one sharded model
    *(("main", 1, False), ("writer", 1, False), ("main", 2, False), ("writer", 2, False)),
    *(("main", 2, True), ("writer", 2, True), ("other writer", 2, True)),
]
Tell = Callable[[str], None]


def resume_and_save(
    kind: str, directory: Path, traced: str, sharded: bool, go: int, tell: Tell, group: Group
) -> None:
    """What one run does: heal, resume, one step, save. It waits until its parent has attached strace."""
    if traced == "main":
        tell(str(os.getpid()))
        os.read(go, 1)
    trainee = Trainee(kind, directory, group, sharded)
    if traced.endswith("writer"):
        tell(str(writer_thread()))
        os.read(go, 1)
    group.master(lambda: trainee.store.begin_start(CheckpointOptions()))  # it notes that it starts
    trainee.checkpointer.restore()
    tell(f"resumed {trainee.step}")
    trainee.train()
    tell(repr(trainee.fingerprint()[:-1]))
    trainee.checkpointer.save()
    trainee.checkpointer.finish()
    tell(f"acknowledged {trainee.step}")


@pytest.fixture(scope="module", params=["artifact", "local"])
def left_behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A directory with two good checkpoints and all that earlier kills could leave."""
    uninterrupted(1)  # what torch loads lazily is loaded now, and each run makes the same system calls
    kind, directory = request.param, tmp_path_factory.mktemp("left") / "checkpoints"
    directory.mkdir()

    def work(tell: Tell) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        for _ in range(2):
            trainee.train()
            trainee.checkpointer.save()
            trainee.checkpointer.finish()
        payload = trainee.store.prepare(3, False)
        payload.write_bytes(b"unfinished")
        link = directory / f"{trainee.store.link_name}_temp"
        link.symlink_to("nowhere")
        (directory / ".isc-probe-left").write_text("")

    assert fork(work, directory.parent / "log").wait() == 0
    return kind, directory


def trial(
    kind: str, original: Path, place: Path, run: tuple[str, int, bool], inject: str = ""
) -> tuple[list[str], int, Path]:
    """One run in a copy of `original`: what the rank under strace said, its exit code, the trace."""
    traced, ranks, sharded = run
    struck = 1 if traced == "other writer" else 0
    directory = place / "checkpoints"
    shutil.copytree(original, directory, symlinks=True)
    reading, writing = os.pipe()
    port = free_port()

    def work(tell: Tell, rank: int, thread: str) -> None:
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
        os.environ.update(variables, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with process_group(Environment.read(), 60, 60) as group:
            resume_and_save(kind, directory, thread, sharded, reading, tell, group)

    others = [fork(lambda tell: work(tell, 1 - struck, "none"), place / "log1")] if ranks == 2 else []
    child = fork(lambda tell: work(tell, struck, traced), place / "log")
    os.close(reading)
    with os.fdopen(child.says) as says:
        strace = attach(int(says.readline()), place / "trace", inject)
        os.write(writing, b"g")
        os.close(writing)
        said = says.read().splitlines()
    code = child.wait()
    strace.wait()
    for other in others:
        assert (other.wait() == 0) == (code == 0)  # one falls, all fall
        os.close(other.says)
    return said, code, place / "trace"


def last_step(said: list[str], default: int) -> int:
    """The last step that the run acknowledged."""
    acknowledged = [int(line.split()[1]) for line in said if line.startswith("acknowledged")]
    return max(acknowledged, default=default)


def goes_on(kind: str, directory: Path, at_least: int, third: str, log: Path) -> None:
    """Two more runs: the first resumes at what was acknowledged or later, each saves one step more."""

    def work(tell: Tell) -> None:
        trainee = Trainee(kind, directory, keep_checkpoints=0)
        trainee.store.begin_start(CheckpointOptions())
        trainee.checkpointer.restore()
        tell(str(trainee.step))
        tell(repr(trainee.fingerprint()[:-1]))
        trainee.train()
        tell(repr(trainee.fingerprint()[:-1]))
        trainee.checkpointer.save()
        trainee.checkpointer.finish()
        tell(str(trainee.step))

    # by step: 2 comes from the original, 3 from the run that was killed, what follows from these runs
    expected = {2: repr(uninterrupted(2)[:-1]), 3: third}
    for _ in range(2):
        child = fork(work, log)
        said = child.said()
        assert child.wait() == 0, log.read_text()
        resumed, saved = int(said[0]), int(said[3])
        assert resumed >= at_least
        assert said[1] == expected[resumed]
        assert saved == resumed + 1
        at_least, expected[saved] = saved, said[2]
    left = [path for path in directory.rglob("*") if "temp" in path.name or "probe" in path.name]
    assert not left


@needs_strace
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_kill_at_every_call(
    left_behind: tuple[str, Path], tmp_path: Path, run: tuple[str, int, bool]
) -> None:
    kind, original = left_behind
    traced, ranks, sharded = run
    said, code, trace = trial(kind, original, make(tmp_path / "whole"), run)
    assert code == 0
    assert said[0::2] == ["resumed 2", "acknowledged 3"]
    calls = mutating_calls(trace, tmp_path / "whole" / "checkpoints")
    expected = THREADS[traced] - ({"mkdir"} if kind == "local" and not sharded else set())
    assert expected <= {call.name for call in calls}
    for number, call in enumerate(calls):
        killed_at(call, kind, original, make(tmp_path / str(number)), run, third=said[1])
        shutil.rmtree(tmp_path / str(number))
    model = ", sharded" if sharded else ""
    print(f"{kind}, {ranks} ranks{model}, {traced} thread: killed at {len(calls)} calls")


def killed_at(
    call: Call, kind: str, original: Path, place: Path, run: tuple[str, int, bool], third: str
) -> None:
    inject = f"{call.name}:signal=KILL:when={call.number}"
    said, code, _ = trial(kind, original, place, run, inject)
    assert code == 137, f"not killed at {call}"
    try:
        goes_on(kind, place / "checkpoints", last_step(said, default=2), third, place / "log")
    except AssertionError as error:
        raise AssertionError(f"after a kill at {call}: {error}") from error


def make(directory: Path) -> Path:
    """A new directory."""
    directory.mkdir()
    return directory
