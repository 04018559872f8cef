"""Each way to fail is really made, and explained from the logs that it leaves."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed.run

from isc_runtime.checkpointing.on_disk.layout import ArtifactLayout
from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.checkpointing.stores.fence import Fence
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.explanation.answer import Explanation
from isc_runtime.explanation.classification import CAUSES
from isc_runtime.explanation.command_line import read
from isc_runtime.explanation.report import as_text
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.reporting import reported
from isc_runtime.tests.explanation.experiments import Experiment, at_step, train
from isc_runtime.tests.processes import PROJECT, UNSET, Place, run_forked
from isc_runtime.training.guard import StepGuard

Act = Callable[[], object]


def fail_with(error: Exception) -> None:
    raise error


def raise_key_error() -> None:
    dict[str, int]()["missing"]


def import_what_is_not_there() -> None:
    importlib.import_module("not_there_at_all")


def use_too_much_memory() -> None:
    bytearray(10**16)


def kill(number: int) -> Act:
    return lambda: os.kill(os.getpid(), number)


def crash() -> None:
    faulthandler.disable()  # pytest's
    os.kill(os.getpid(), signal.SIGABRT)


def crash_with_stacks() -> None:
    faulthandler.enable(2)
    os.kill(os.getpid(), signal.SIGSEGV)


def kill_worker() -> None:
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    time.sleep(60)  # torch raises an exception here when it notices


def hang() -> None:
    time.sleep(600)


def read_what_is_not_there() -> None:
    Path("/no/such/file").read_bytes()


def take_over() -> None:
    """As another run that starts in the same artifact."""
    Fence(ArtifactLayout(Path(os.environ["CHECKPOINT_ARTIFACT_PATH"]))).enter()


def fail_to_write(*_: object) -> None:
    """The system's own error of a full disk."""
    with Path("/dev/full").open("wb") as stream:
        stream.write(b"weights")


@dataclass(frozen=True)
class Failure:
    """What one rank does in its fifth step, and what must be said about it.

    Attributes:
        act: what it does.
        cause: the name of the cause.
        code: the exit code.
        says: what the shown line holds.
        arguments: of the training.
        is_located: whether the rank that was first can be known.
    """

    act: Act
    cause: str
    code: int
    says: str
    arguments: tuple[str, ...] = ()
    is_located: bool = True


FAILURES = {
    "unforeseen": Failure(raise_key_error, "exception", 1, "KeyError: 'missing'"),
    "module": Failure(import_what_is_not_there, "missing-module", 1, "not_there_at_all"),
    "memory": Failure(use_too_much_memory, "memory", 1, "MemoryError"),
    "killed": Failure(kill(signal.SIGKILL), "killed", 137, "137"),
    "crashed": Failure(crash, "crashed", 134, "134"),
    "crashed with stacks": Failure(crash_with_stacks, "native-crash", 139, "Segmentation fault"),
    "worker": Failure(kill_worker, "worker-killed", 1, "Killed", ("--workers", "1")),
    "disk": Failure(fail_to_write, "disk-full", 3, "No space left on device"),
    "place": Failure(read_what_is_not_there, "exit-unfit", 3, "/no/such/file"),
    "hung": Failure(hang, "hang", 8, "No batch was finished within 2 s", ("--timeout", "2"), False),
}
# The causes that other tests make, of this module and of test_endings.
ELSEWHERE = {
    *("own-error", "usage", "exit-usage", "exit-data", "exit-checkpoint", "exit-save", "exit-diverged"),
    *("missing-module", "launcher-gone", "lost-contact", "torchrun-summary", "torchrun-waited"),
    *("save-failed", "damaged-checkpoint", "repaired", "not-finite", "stopped", "completed"),
    *("no-such-command", "no-such-script", "permission", "ctrl-c", "gloo", "rendezvous", "torchrun-stopped"),
    *("exit-unforeseen", "exit-other", "exit-peer", "exit-stopped", "exit-taken", "exit-fruitless"),
    *("fruitless", "fruitless-start", "syntax", "process-killed", "ended-with-0"),
}


def test_what_is_called_seen_is_made_here() -> None:
    made = {failure.cause for failure in FAILURES.values()} | ELSEWHERE
    assert {cause.name for cause in CAUSES if cause.seen} == made


def explained(experiment: Experiment) -> Explanation:
    """What the logs say, which must be sayable, too."""
    found = read([experiment.output])
    text = as_text(found)
    assert len(text.splitlines()) <= 40, text
    assert text.isprintable() or "\n" in text
    return found


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_rank_is_found(name: str, nodes: int, tmp_path: Path) -> None:
    failure, last = FAILURES[name], 1
    experiment = Experiment(tmp_path, nodes, 2 // nodes)
    arguments = ("--save-steps", "3", *failure.arguments)
    experiment.start(*arguments, arrange=lambda rank: at_step(5, failure.act) if rank == last else None)
    found = explained(experiment)
    text = as_text(found)
    assert (found.outcome, found.cause.name, found.code) == ("failed", failure.cause, failure.code), text
    assert found.first is not None
    assert failure.says in found.first.text
    assert failure.says in experiment.log(int(found.first.file[5])).splitlines()[found.first.line - 1]
    assert found.master.step in (4, 5), text  # the master may be a step ahead
    assert found.master.saved_step == 3
    assert "goes on from step 3" in " ".join(text.split())
    if failure.is_located:
        assert found.rank == last, text
        assert found.node is not None
        assert found.node.number == nodes - 1, text
        assert f"node {nodes - 1}, rank 1" in text


@pytest.mark.parametrize(
    ("act", "cause", "code"), [(raise_key_error, "exception", 1), (crash, "crashed", 134)]
)
def test_torchruns_own_summary(act: Act, cause: str, code: int, tmp_path: Path) -> None:
    """Started by torch's torchrun, not by launch.sh: it ends with 1 and a long summary, whatever happened."""
    experiment = Experiment(tmp_path, 1, 2, launcher=torch.distributed.run.main)
    experiment.start("--save-steps", "3", arrange=lambda rank: at_step(5, act) if rank else None)
    assert "ChildFailedError" in experiment.log()
    found = explained(experiment)
    assert (found.cause.name, found.code, found.rank) == (cause, code, 1), as_text(found)


def test_the_master_may_be_first(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, 2, 1)
    experiment.start(
        "--save-steps", "3", arrange=lambda rank: at_step(5, raise_key_error) if rank == 0 else None
    )
    found = explained(experiment)
    assert (found.cause.name, found.rank, found.node and found.node.number) == ("exception", 0, 0)
    assert "(test_failures.py:" in as_text(found)  # the innermost line that is not the runtime's


@pytest.mark.parametrize("nodes", [1, 2])
def test_wrong_arguments(nodes: int, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, nodes)
    experiment.start("--no-such-option")
    found = explained(experiment)
    assert (found.cause.name, found.code) == ("usage", 2)
    assert "--no-such-option" in as_text(found)


def test_wrong_values(tmp_path: Path) -> None:
    """As model.py refuses a name that it does not have."""
    error = IscError("There is no such model", "--model nothing", "Choose another.", ExitCode.USAGE)
    experiment = Experiment(tmp_path)
    experiment.start(arrange=lambda rank: fail_with(error))
    found = explained(experiment)
    assert (found.cause.name, found.code) == ("exit-usage", 2)
    assert "--model nothing" in as_text(found)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_missing_variable(nodes: int, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, nodes)
    experiment.place.variables["CHECKPOINT_ARTIFACT_PATH"] = UNSET
    assert {ended.code for ended in experiment.start()} == {3}
    found = explained(experiment)
    assert (found.outcome, found.cause.name) == ("failed", "own-error")
    assert "CHECKPOINT_ARTIFACT_PATH" in as_text(found)
    assert "before its first step" in as_text(found)


def test_a_missing_directory(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.place.checkpoints.rmdir()
    experiment.start()
    said = " ".join(as_text(explained(experiment)).split())  # a path is not broken, but the line before it is
    assert f"does not exist: {experiment.place.checkpoints}" in said


def test_one_node_is_not_fit_and_the_other_waits(tmp_path: Path) -> None:
    """The one that waits says most; the cause is on the other one."""
    experiment = Experiment(tmp_path, 2)
    experiment.unfit_node, experiment.patience = 1, 3
    experiment.start()
    found = explained(experiment)
    assert found.node is not None
    assert (found.cause.name, found.node.number) == ("own-error", 1), as_text(found) + experiment.log(0)
    assert "torchrun-waited" in {event.cause.name for _, one in found.last for event in one.all_events()}


def test_a_missing_package(tmp_path: Path) -> None:
    """As launch.sh meets it: the first checks, in a Python that has no packages."""
    place = Place(tmp_path, isc_mode=True)
    command = [sys.executable, "-S", "-m", "isc_runtime", "preflight"]
    with (tmp_path / "rank_0.txt").open("w") as log:
        environment = {**place.environment(), "PYTHONPATH": str(PROJECT)}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, check=False)
    assert ended.returncode == 3
    found = read([tmp_path / "rank_0.txt"])
    assert found.cause.name == "missing-module"
    assert "missing: torch" in as_text(found)


@pytest.mark.parametrize("nodes", [1, 2])
def test_missing_data(nodes: int, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, nodes)
    place = tmp_path / "a name that is as long as some are" / ("none" * 40)  # and is shown whole
    error = IscError("There is no such dataset", place, "Choose another.", ExitCode.DATA)
    experiment.start(arrange=lambda rank: at_step(1, lambda: fail_with(error)) if rank == 0 else None)
    found = explained(experiment)
    assert (found.cause.name, found.code, found.rank) == ("exit-data", 4, 0)
    assert str(place) in as_text(found)


@pytest.mark.parametrize("nodes", [1, 2])
def test_damaged_checkpoints(nodes: int, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, nodes)
    experiment.start("--save-steps", "3")
    for payload in experiment.place.checkpoints.glob("*/checkpoint.pt"):
        payload.write_bytes(payload.read_bytes()[:-1] + b"?")
    experiment.start("--save-steps", "3", "--epochs", "2")
    found = explained(experiment)
    assert (found.outcome, found.cause.name, found.code) == ("failed", "exit-checkpoint", 5)
    assert "goes on from" not in as_text(found)
    assert "[DAMAGED]" in as_text(found)
    assert "attempt 2" in as_text(found)


def test_a_damaged_checkpoint_is_no_failure(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.start("--save-steps", "3")
    newest = (experiment.place.checkpoints / "AtomicDirectory.latest_checkpoint").resolve() / "checkpoint.pt"
    newest.write_bytes(b"")
    experiment.start("--save-steps", "3")
    found = explained(experiment)
    assert found.outcome == "completed"
    assert "[DAMAGED]" in as_text(found)
    assert "resumed once" in as_text(found)


@pytest.mark.parametrize("nodes", [1, 2])
def test_failing_saves(nodes: int, tmp_path: Path) -> None:
    def arrange(rank: int) -> None:
        setattr(ArtifactStore, "write", fail_to_write)  # noqa: B010

    experiment = Experiment(tmp_path, nodes)
    experiment.start("--save-steps", "1", "--max-failed-saves", "2", arrange=arrange)
    found = explained(experiment)
    assert (found.cause.name, found.code, found.rank) == ("disk-full", 6, 0)
    assert found.master.failed_saves == 2
    assert "no completed checkpoint" in as_text(found)
    assert "[FAILED]" in as_text(found)


def test_starts_that_lead_nowhere(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    options = ("--save-steps", "100", "--max-fruitless-starts", "2")
    killed = experiment.start(*options, arrange=lambda rank: at_step(2, lambda: os.kill(os.getpid(), 9)))
    assert killed[0].code == 137
    experiment.start(*options)
    found = explained(experiment)
    assert (found.outcome, found.cause.name, found.code) == ("failed", "fruitless", 10)
    said = " ".join(as_text(found).split())
    assert "1 start in a row from step 0" in said
    assert "The next start counts anew" in said
    log = experiment.output / "rank_0.txt"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if "in a row" not in line))
    found = explained(experiment)
    assert (found.cause.name, found.code) == ("exit-fruitless", 10), "by torchrun's word alone"


def test_a_run_that_was_replaced(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.start("--save-steps", "3", arrange=lambda rank: at_step(5, take_over))
    found = explained(experiment)
    assert (found.cause.name, found.code) == ("exit-taken", 9)
    assert found.first is not None
    assert "Another run has taken over this checkpoint directory" in found.first.text
    assert "second process or experiment" in " ".join(as_text(found).split())


def test_saves_that_fail_otherwise(tmp_path: Path) -> None:
    def arrange(rank: int) -> None:
        setattr(ArtifactStore, "write", lambda *_: raise_key_error())  # noqa: B010

    experiment = Experiment(tmp_path)
    experiment.start("--save-steps", "1", "--max-failed-saves", "2", arrange=arrange)
    found = explained(experiment)
    assert (found.cause.name, found.code) == ("exit-save", 6)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_loss_that_is_not_finite(nodes: int, tmp_path: Path) -> None:
    def skip_steps() -> None:
        guard = StepGuard(torch.nn.Linear(1, 1), {}, most=3)
        for step in (4, 5, 6):
            guard.allows(torch.tensor(float("nan")), step, torch.amp.GradScaler("cpu", enabled=False))

    experiment = Experiment(tmp_path, nodes)
    experiment.start(arrange=lambda rank: at_step(4, skip_steps))
    found = explained(experiment)
    assert (found.cause.name, found.code) == ("exit-diverged", 7)
    assert "is skipped" in as_text(found)


@pytest.mark.parametrize(("number", "nodes"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 2)])
def test_a_signal_that_asks_to_stop_is_no_failure(number: int, nodes: int, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, nodes)
    experiment.start(arrange=lambda rank: at_step(5, kill(number)) if rank == nodes - 1 else None)
    found = explained(experiment)
    assert (found.outcome, found.cause.name) == ("stopped", "stopped")
    assert f"signal {number}" in as_text(found)
    assert found.saved_step == found.master.step


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_training_that_completes(nodes: int, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, nodes)
    experiment.start()
    found = explained(experiment)
    assert (found.outcome, found.cause.name) == ("completed", "completed")


@dataclass
class Interruption:
    """All processes of all nodes are killed at once, and without a word, as the ISC may do it at any time.

    Attributes:
        folder: where the ranks leave the ids of their processes.
        step: the step of the master at which it comes.
        node: the only node that it hits, or None.
    """

    folder: Path
    step: int
    node: int | None = None

    def arrange(self, rank: int) -> None:
        """In each rank."""
        (self.folder / f"processes_{rank}").write_text(f"{os.getppid()} {os.getpid()}")
        if rank == (self.node or 0):
            at_step(self.step, self.come)

    def come(self) -> None:
        files = self.folder.glob(f"processes_{'*' if self.node is None else self.node}")
        own = [os.getppid(), os.getpid()]
        others = {int(number) for file in files for number in file.read_text().split()} - {*own}
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # torch sends it to ranks that lose their parent
        for number in [*others, *own]:
            os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("nodes", [1, 2])
def test_cycles_that_are_interrupted(nodes: int, tmp_path: Path) -> None:
    """Several of them in one file, the first before it had saved anything."""
    experiment = Experiment(tmp_path, nodes)
    for step in (2, 5, 4):
        interruption = Interruption(tmp_path, step)
        experiment.start("--save-steps", "3", "--epochs", "3", arrange=interruption.arrange)
    found = explained(experiment)
    text = as_text(found)
    assert (found.outcome, found.cause.name, found.first) == ("interrupted", "silent-end", None)
    assert [node.starts for node in found.nodes] == [3] * nodes
    assert [one.began_at for one in found.nodes[0].attempts] == [0, 0, 3]
    assert "attempt 3, resumed once" in text
    assert "the log ends here" in text
    assert found.saved_step == 6
    assert "began at step" not in text
    log = tmp_path / "all.log"
    log.write_text(mixed(*(experiment.log(node) for node in range(nodes))))
    found = read([log])
    assert ([node.starts for node in found.nodes], found.saved_step) == ([3], 6), log.read_text()


def mixed(*logs: str) -> str:
    """One log of several nodes, by the times in it; what has none comes with the next line that has one."""
    parts: list[tuple[str, str]] = []
    for log in logs:
        waiting = ""
        for line in log.splitlines(keepends=True):
            waiting += line
            if line[:4].isdigit():
                parts.append((line[:23], waiting))
                waiting = ""
        parts.append(("9", waiting))
    return "".join(part for _, part in sorted(parts, key=lambda one: one[0]))


def test_cycles_that_save_nothing(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    for _ in range(3):
        experiment.start("--save-steps", "100", arrange=Interruption(tmp_path, 3).arrange)
    found = explained(experiment)
    assert any("last 3 attempts all began at step 0" in note for note in found.notes), found.notes
    assert (found.outcome, found.cause.name) == ("interrupted", "fruitless-start")
    said = " ".join(as_text(found).split())
    assert "This is start 3 from step 0" in said
    assert "In the last one the start-up took" in said, "what that start was at is the training's own word"
    assert "nothing to do" not in said
    assert "the log ends here" in said
    experiment.start("--save-steps", "2", "--epochs", "9", arrange=Interruption(tmp_path, 5).arrange)
    found = explained(experiment)
    assert found.cause.name == "silent-end", "what has saved since then gets somewhere"
    assert "[START] This is start 4" in as_text(found)


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_vanishes(node: int, tmp_path: Path) -> None:
    """Its log says nothing; the other one says whom it misses. If that one ends too, all was interrupted."""
    experiment = Experiment(tmp_path, 2)
    experiment.start(arrange=Interruption(tmp_path, 3, node).arrange)
    found = explained(experiment)
    assert (found.outcome, found.cause.name, found.rank, found.code) == ("failed", "lost-contact", node, 8)
    assert any(note.startswith(f"The log of node {node} ends without a word") for note in found.notes)
    log = experiment.output / f"rank_{1 - node}.txt"
    lines = log.read_text().splitlines(keepends=True)
    error = next(number for number, line in enumerate(lines) if line.startswith("ERROR: "))
    log.write_text("".join(lines[: error + 1]))  # it was killed before torchrun said anything
    assert explained(experiment).outcome == "interrupted"


def test_torchrun_that_is_killed(tmp_path: Path) -> None:
    """Its ranks are left behind, and end themselves."""
    logs = tmp_path / "logs"
    logs.mkdir()

    def work() -> None:
        at_step(4, lambda: os.kill(os.getppid(), signal.SIGKILL) if os.environ["RANK"] == "1" else hang())
        train("--timeout", "20")

    def launcher() -> None:
        os.chdir(tmp_path)
        run_forked(logs, work)

    run_forked(tmp_path, launcher, ranks=1)
    deadline = time.monotonic() + 20
    while "ERROR" not in (logs / "rank0.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert read([logs]).cause.name == "launcher-gone"


@pytest.mark.parametrize(
    ("code", "cause", "outcome"),
    [
        (1, "exit-unforeseen", "failed"),
        (8, "exit-peer", "failed"),
        (77, "exit-other", "failed"),
        (143, "exit-stopped", "stopped"),
    ],
)
def test_only_an_exit_code_is_there(code: int, cause: str, outcome: str, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.start(arrange=lambda rank: at_step(3, lambda: os._exit(code)))
    found = explained(experiment)
    assert (found.cause.name, found.outcome) == (cause, outcome)
    assert str(code) in as_text(found)


def test_torchrun_that_is_asked_to_stop(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, 1, 2, launcher=torch.distributed.run.main)
    experiment.start(
        arrange=lambda rank: at_step(3, lambda: os.kill(os.getppid(), signal.SIGTERM)) if rank else None
    )
    found = explained(experiment)
    assert found.outcome == "stopped"
    assert "torchrun-stopped" in found.last[0][1].counts


def test_ranks_that_do_not_find_each_other(tmp_path: Path) -> None:
    def work() -> None:
        if os.environ["RANK"] == "1":
            with reported(), process_group(Environment.read(), 1, 1):
                pass

    run_forked(tmp_path, work)
    assert read([tmp_path]).cause.name == "rendezvous"


def test_a_training_without_isc_runtime_loses_a_rank(tmp_path: Path) -> None:
    def work() -> None:
        torch.distributed.init_process_group("gloo")
        if os.environ["RANK"] == "1":
            os._exit(0)
        torch.distributed.all_reduce(torch.zeros(1))

    run_forked(tmp_path, work)
    found = read([tmp_path])
    assert (found.outcome, found.cause.name) == ("failed", "gloo")


def test_only_what_follows_is_there(tmp_path: Path) -> None:
    """The log of the node that failed is not among those that were given."""
    experiment = Experiment(tmp_path, 2)
    experiment.start(arrange=lambda rank: at_step(4, kill(signal.SIGKILL)) if rank else None)
    found = read([experiment.output / "rank_0.txt"])
    assert (found.cause.name, found.rank, found.node) == ("lost-contact", 1, None)
    assert any("rank 1" in note for note in found.notes)


@pytest.mark.parametrize(
    ("command", "cause", "says"),
    [
        ("no_such_program --version", "no-such-command", "no_such_program"),
        ("bash /root/no/launch.sh", "no-such-script", "/root/no/launch.sh"),
        ("source /opt/none/bin/activate", "no-such-script", "/opt/none/bin/activate"),
        ("./not_executable", "permission", "not_executable"),
        (f"bash '{PROJECT}/launch.sh'", "own-error", "NODE_RANK"),
    ],
)
def test_what_a_shell_says(command: str, cause: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "not_executable").write_text("echo")
    with (tmp_path / "rank_0.txt").open("w") as log:
        environment = {"PATH": os.environ["PATH"]}
        ended = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, stdout=log, stderr=log, check=False
        )
    assert ended.returncode
    found = read([tmp_path / "rank_0.txt"])
    assert (found.outcome, found.cause.name) == ("failed", cause), as_text(found)
    assert says in as_text(found)


def test_ctrl_c(tmp_path: Path) -> None:
    with (tmp_path / "rank_0.txt").open("w") as log:
        command = (  # of what a shell runs in the background SIGINT is ignored
            "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "os.kill(os.getpid(), signal.SIGINT)"
        )
        subprocess.run([sys.executable, "-c", command], stderr=log, check=False)
    found = read([tmp_path])
    assert (found.outcome, found.cause.name) == ("stopped", "ctrl-c")
