"""What a rehearsal does without running anything: plan, command, syncs, samples, verdict. And how it refuses.

Real rehearsals, with mistakes planted in the project, are run by the template's own tests.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isc_runtime.checkpointing.on_disk.manifest import Manifest
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.rehearsal import artifact, run, samples
from isc_runtime.rehearsal.command_line import main, parse_arguments
from isc_runtime.rehearsal.cycle import COMPLETE, FAILED, HUNG, KILLED, TERMINATED, Cycle
from isc_runtime.rehearsal.cycle_findings import judge_cycle, judge_start, place_in
from isc_runtime.rehearsal.node import Artifacts, Machine
from isc_runtime.rehearsal.plan import Plan
from isc_runtime.rehearsal.report import Screen, as_json, conclusion, row
from isc_runtime.rehearsal.run import Rehearsal
from isc_runtime.rehearsal.samples import Taken
from isc_runtime.rehearsal.trace import FOLDER_VARIABLE, STARTUP, Trace
from isc_runtime.rehearsal.verdict import Comparison, Verdict, judge_gpus, judge_whole, last_in_common

PROJECT = Path(__file__).resolve().parents[3]
HOMES = ["/root/a-project"]


SMALL = st.integers(1, 4)
PLANS = st.builds(Plan, nodes=SMALL, procs=SMALL, cycles=SMALL, seed=st.integers(0, 99), resize=st.booleans())


@given(PLANS)
def test_a_seed_gives_one_plan(plan: Plan) -> None:
    cycles = plan.draw()
    assert cycles == plan.draw()
    assert [cycle.number for cycle in cycles] == list(range(1, plan.cycles + 1))
    assert [cycle.is_last for cycle in cycles] == [False] * (plan.cycles - 1) + [True]
    sizes = [cycle.ranks for cycle in cycles]
    if plan.resize:
        assert all(one != other for one, other in itertools.pairwise(sizes))
    else:
        assert set(sizes) == {plan.nodes * plan.procs}


def test_mixed_interruptions_are_both() -> None:
    assert {cycle.how for cycle in Plan(interrupt="mixed", cycles=20).draw()} == {"kill", "term"}


@pytest.mark.parametrize("seed", range(10))
def test_when_a_cycle_is_interrupted(seed: int) -> None:
    by_time = Plan(cycle_seconds=10, seed=seed)
    first, *_, last = by_time.draw()
    assert 5 <= by_time.seconds(first) <= 10 == by_time.seconds(last)
    assert by_time.step(first, 0, 45) is None
    by_step = Plan(seed=seed)
    step = by_step.step(first, 45, 90)
    assert step is not None
    assert 91 <= step <= 136, "after the checkpoint, within as many steps again"
    assert by_step.seconds(first) == 90
    assert by_step.step(last, 45, 90) is None


def test_nothing_of_the_callers_cluster_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID", "PET_NNODES"):
        monkeypatch.setenv(name, "77")
    monkeypatch.setenv("NODE_RANK", "77")
    monkeypatch.setenv("KEPT", "yes")
    machine = Machine.here([Path("/first")], Path("/temporary"))
    variables = machine.environment(1, 2, 4, 1234, Artifacts(Path("/c"), Path("/l")))
    assert "77" not in variables.values()
    assert variables["KEPT"] == "yes"
    expected = {
        "NNODES": "2",
        "N_PROC": "4",
        "NODE_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1234",
    }
    paths = {"CHECKPOINT_ARTIFACT_PATH": "/c", "OUTPUT_PATH": "/c", "LOSSY_ARTIFACT_PATH": "/l"}
    assert {**expected, **paths}.items() <= variables.items()
    assert variables["PATH"].startswith(str(Path(sys.executable).parent))
    assert variables["PYTHONPATH"].startswith("/first")


def make_checkpoint(artifact_directory: Path, name: str, step: int) -> None:
    directory = artifact_directory / name
    directory.mkdir()
    payload = directory / "checkpoint.pt"
    payload.write_bytes(b"weights")
    Manifest.of([payload], step, "2026-11-24T00:00:00+00:00", {}).write(directory / "manifest.json")


@pytest.fixture
def synced(tmp_path: Path) -> Path:
    """An artifact with old, forced, linked and unfinished checkpoints, and things that are none."""
    for number, suffix in enumerate(["", "_force", "", ""]):
        make_checkpoint(tmp_path, f"AtomicDirectory_checkpoint_{number}{suffix}", 10 * number)
    (tmp_path / "AtomicDirectory_checkpoint_4").mkdir()  # a save on its way
    make_checkpoint(tmp_path, "best_checkpoint_7", 15)
    for name, target in (("AtomicDirectory", "AtomicDirectory_checkpoint_2"), ("best", "best_checkpoint_7")):
        (tmp_path / f"{name}.latest_checkpoint").symlink_to(f"/somewhere/else/{target}")
    (tmp_path / "set-aside").mkdir()
    (tmp_path / "notes.txt").write_text("plain")
    return tmp_path


def test_a_sync_ships_what_links_point_to_and_what_is_forced(synced: Path) -> None:
    done = artifact.sync(synced)
    assert done.shipped == (
        "AtomicDirectory_checkpoint_1_force",
        "AtomicDirectory_checkpoint_2",
        "best_checkpoint_7",
    )
    assert done.deleted == tuple(f"AtomicDirectory_checkpoint_{number}" for number in (0, 3, 4))
    assert done.step == 20
    assert (synced / "notes.txt").exists(), "while a training runs the rest stays"
    artifact.leave_only_what_was_shipped(synced, done)
    links = {"AtomicDirectory.latest_checkpoint", "best.latest_checkpoint"}
    assert {path.name for path in synced.iterdir()} == {*done.shipped, *links}


def test_what_a_sync_would_do_is_no_sync(synced: Path) -> None:
    before = sorted(synced.rglob("*"))
    foreseen = artifact.foresee(synced)
    assert sorted(synced.rglob("*")) == before
    assert artifact.sync(synced) == foreseen


def test_an_artifact_to_start_from_has_a_good_checkpoint(synced: Path, tmp_path: Path) -> None:
    assert artifact.step_of_artifact(synced) == 30
    for path in synced.glob("AtomicDirectory_checkpoint_*/checkpoint.pt"):
        path.write_bytes(b"damaged")
    for directory, what in (
        (
            synced,
            r"no good checkpoint in this artifact \(.*does not match|no good checkpoint .*bytes instead",
        ),
        (synced / "set-aside", "no good checkpoint in this artifact: "),
        (tmp_path / "none", "There is no such artifact"),
    ):
        with pytest.raises(IscError, match=what) as raised:
            artifact.step_of_artifact(directory)
        assert raised.value.exit_code == ExitCode.USAGE
        assert raised.value.where == str(directory)


def test_a_training_that_does_not_start_from_the_artifact_is_not_fit(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path)
    assert list(judge_cycle(cycle, None, Plan(), artifact_step=0)) == []
    (finding,) = judge_cycle(cycle, None, Plan(), artifact_step=40)
    assert "It does not resume: it began at step 0, and a checkpoint of step 40 was there" in finding.what


def test_an_empty_artifact_ships_nothing(tmp_path: Path) -> None:
    (tmp_path / "AtomicDirectory.latest_checkpoint").symlink_to("/nowhere/AtomicDirectory_checkpoint_1")
    assert artifact.sync(tmp_path) == artifact.Synced()


def write_trace(
    folder: Path, *ranks: list[tuple[int, int, list[int]]], length: int = 4, save: str = ""
) -> Trace:
    """A trace in which each rank took steps: (step, epoch, samples)."""
    folder.mkdir()
    for number, steps in enumerate(ranks):
        lines: list[list[object]] = [["start", 1], ["loader", length]]
        for step, epoch, indices in steps:
            lines += [["batch", indices], ["step", step, epoch, 1000.0 + step]]
        lines += [["save", save]] if save else []
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"rank_{number}.jsonl").write_text(text + '["batch", [1')  # killed while it wrote
    trace = Trace(folder)
    trace.read()
    return trace


def test_what_was_lost_does_not_count(tmp_path: Path) -> None:
    first = write_trace(tmp_path / "1", [(1, 0, [0, 1]), (2, 0, [2, 3]), (3, 1, [3, 2])])
    second = write_trace(tmp_path / "2", [(3, 1, [1, 0]), (4, 1, [2, 3])])
    path = samples.path_of([first, second])
    assert [path[step].samples for step in sorted(path)] == [((0, 1),), ((2, 3),), ((1, 0),), ((2, 3),)]
    assert [(count.missed, count.repeated) for count in samples.count_epochs(path, [4], True)] == [
        (0, 0),
        (0, 0),
    ]


LEAVES_A_BATCH = """
from torch.utils.data import DataLoader
loader = DataLoader(range(4), num_workers=1, persistent_workers=True)
for _ in range(2):
    for batch in loader:
        break
"""


def test_a_batch_that_was_left_does_not_count_though_the_workers_stay(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(STARTUP), FOLDER_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", LEAVES_A_BATCH]
    subprocess.run(command, env={**environment, "RANK": "0", "LOCAL_RANK": "0"}, check=True)
    lines = [json.loads(line) for line in (tmp_path / "rank_0.jsonl").read_text().splitlines()]
    assert lines[0][2] is None, "a program, and no file"
    assert lines[1:] == [["loader", 4], ["batch", [0]], ["loader", 4], ["batch", [0]]]


def test_a_training_tells_its_steps(tmp_path: Path) -> None:
    """The real one: what the observer reads of it may have been renamed."""
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "GROUP_RANK": "0"}
    environment = {**os.environ, **variables, "PYTHONPATH": str(STARTUP), FOLDER_VARIABLE: str(tmp_path)}
    command = [sys.executable, str(PROJECT / "train.py"), "--epochs", "1"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    trace = Trace(tmp_path)
    trace.read()
    assert trace.ranks[0].script == PROJECT / "train.py"
    assert (trace.started_at_step, trace.steps_are_known) == (0, True)
    assert trace.last_step == trace.batches > 10


def test_repeated_and_missing_samples_are_counted(tmp_path: Path) -> None:
    wrong = samples.path_of([write_trace(tmp_path / "1", [(1, 0, [0, 1]), (2, 0, [0, 2])], length=5)])
    right = samples.path_of([write_trace(tmp_path / "2", [(1, 0, [0, 1]), (2, 0, [2, 3])], length=5)])
    assert samples.first_difference(wrong, right) == 2
    assert samples.again_and_never(wrong, right, epoch=0) == (1, 1)
    (count,) = samples.count_epochs(wrong, [5], True)
    assert (count.missed, count.repeated) == (2, 1)
    assert samples.count_epochs(wrong, [5], False) == [], "the epoch goes on"


def test_an_order_that_comes_again() -> None:
    path = {step: Taken(step // 2, (((step % 2) * 2, (step % 2) * 2 + 1),)) for step in range(6)}
    assert samples.same_order(path) == (0, 1)
    path[2] = Taken(1, ((3, 1),))
    assert samples.same_order({step: path[step] for step in range(4)}) is None


def make_cycle(
    tmp_path: Path,
    name: str = "cycle 1",
    end: str = KILLED,
    steps: range = range(1, 11),
    codes: tuple[int | None, ...] = (),
    shipped: int | None = 8,
    log: str = "",
    save: str = "",
) -> Cycle:
    folder = tmp_path / name
    trace = write_trace(folder, [(step, 0, [step]) for step in steps], length=100, save=save)
    (folder / "node_0.log").write_text(log)
    cycle = Cycle(name, 1, 1, tmp_path / "artifact", trace, [folder / "node_0.log"], end, list(codes))
    cycle.started_at, cycle.has_saved = 990.0, shipped is not None
    if shipped is not None:
        cycle.synced = artifact.Synced(
            ("AtomicDirectory_checkpoint_3",), ("AtomicDirectory_checkpoint_2",), shipped
        )
    return cycle


def test_a_good_cycle(tmp_path: Path) -> None:
    first, last = make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)
    assert list(judge_cycle(first, None, Plan())) == []
    assert list(judge_cycle(last, first, Plan())) == []
    assert row(first, [first, last]) == ["1", "1 x 1", "1-10", "-", "2", "1", "1", "11.0 s", "SIGKILL"]
    assert row(last, [first, last]) == [
        "2",
        "1 x 1",
        "9-12",
        "8",
        "0",
        "1",
        "1",
        "19.0 s",
        "complete, exit 0",
    ]


BAD_CYCLES = {
    "no resume": (
        {"steps": range(1, 4)},
        "began at step 0, and a checkpoint of step 8 was there",
        "restore()",
    ),
    "failed": (
        {"end": FAILED, "codes": (5,), "log": "ERROR: no\n"},
        "exit code 5, after step 19: ERROR: no",
        "Fix",
    ),
    "term, 0": ({"end": TERMINATED, "codes": (0,)}, "the command ended with 0", "ISC takes 0 for completed"),
    "term, late": ({"end": TERMINATED, "codes": (None,)}, "did not end in time", "--grace-seconds"),
    "term, lost": (
        {"end": TERMINATED, "codes": (143,), "shipped": 17},
        "2 steps are lost",
        "checkpointer.poll()",
    ),
    "hung": ({"end": HUNG}, "no rank has started", "collective that only some ranks call"),
    "astray": (
        {"shipped": None, "save": "/root/x.pt"},
        "outside of the artifact",
        "CHECKPOINT_ARTIFACT_PATH",
    ),
    "nothing saved": ({"shipped": None}, "completed no checkpoint", "--save-steps"),
}


@pytest.mark.parametrize(("facts", "what", "hint"), BAD_CYCLES.values(), ids=BAD_CYCLES)
def test_a_bad_cycle(tmp_path: Path, facts: dict[str, object], what: str, hint: str) -> None:
    first = make_cycle(tmp_path)
    facts = {"name": "cycle 2", "steps": range(9, 20), "shipped": 19, **facts}
    bad = make_cycle(tmp_path, **facts)  # type: ignore[arg-type]
    (finding,) = judge_cycle(bad, first, Plan())
    assert (finding.where, finding.severity) == ("cycle 2", "error")
    assert what in finding.what
    assert hint in finding.hint


def test_a_plain_file_in_the_artifact_is_not_shipped(tmp_path: Path) -> None:
    file = str(tmp_path / "artifact" / "weights.pt")
    (finding,) = judge_cycle(make_cycle(tmp_path, shipped=None, save=file), None, Plan())
    assert "plain files in the artifact, which are not shipped" in finding.what
    assert file in finding.what


@pytest.mark.parametrize(("seconds", "severity"), [(None, "error"), (5.0, "warning")])
def test_a_cycle_too_short_to_save(tmp_path: Path, seconds: float | None, severity: str) -> None:
    cycle = make_cycle(tmp_path)
    cycle.has_saved = False
    (finding,) = judge_cycle(cycle, None, Plan(cycle_seconds=seconds))
    assert finding.severity == severity
    assert f"10 steps and completed no checkpoint in {seconds or 90:g} s" in finding.what


def test_a_trial_start_that_hides_a_failure_or_never_starts(tmp_path: Path) -> None:
    (hidden,) = judge_start(make_cycle(tmp_path, "a", COMPLETE, codes=(0,)), 7, tmp_path)
    assert "the ranks ended with 7, and the command with 0" in hidden.what
    assert list(judge_start(make_cycle(tmp_path, "b", FAILED, codes=(7,)), 7, tmp_path)) == []
    cycle = make_cycle(tmp_path, "c", FAILED, codes=(127,), log="bash: line 1: lunch: command not found\n")
    cycle.trace = Trace(tmp_path)
    (never,) = judge_start(cycle, 7, tmp_path)
    assert "ended with exit code 127 before train.py: bash: line 1: lunch: command not found" in never.what


def test_a_trial_start_of_another_project(tmp_path: Path) -> None:
    """The whole path of the project was not in the command, and there is one of its name."""
    project, other = tmp_path / "copy", tmp_path / "real"
    for folder in (project, other):
        folder.mkdir()
        (folder / "train.py").write_text("")
    cycle = make_cycle(tmp_path, "a", FAILED, codes=(7,))
    cycle.trace.ranks[0].script = project / "train.py"
    assert list(judge_start(cycle, 7, project)) == []
    cycle.trace.ranks[0].script = Path("/opt/tools/start.py")
    assert list(judge_start(cycle, 7, project)) == []
    cycle.trace.ranks[0].script = other / "train.py"
    (finding,) = judge_start(cycle, 7, project)
    assert f"The command starts {other}/train.py, and not the train.py of this project" in finding.what


def test_where_a_rank_stands() -> None:
    stack = (
        'Thread 0x1 (most recent call first):\n  File "/p/train.py", line 1 in watcher\n\n'
        "Current thread 0x2 (most recent call first):\n"
        '  File "/v/lib/python3.11/site-packages/torch/x.py", line 7 in all_reduce\n'
        '  File "/p/isc_runtime/distributed.py", line 9 in gather\n'
        '  File "/p/train.py", line 120 in run\n  File "/p/train.py", line 240 in main\n'
    )
    assert place_in(stack) == "train.py:120, run(), in gather()"
    assert place_in("") == "an unknown place"


@pytest.mark.parametrize(
    ("gpus", "procs", "is_fine"), [(8, 2, True), (7, 2, False), (1, 8, True), (12, 8, False), (None, 2, True)]
)
def test_gpus_and_nodes(gpus: int | None, procs: int, is_fine: bool) -> None:
    findings = list(judge_gpus(gpus, Plan(procs=procs)))
    assert is_fine is not bool(findings)
    if findings:
        assert f"gpus = {gpus} is no multiple of {procs}" in findings[0].what


def test_the_whole_verdict(tmp_path: Path) -> None:
    first, last = make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)
    reference = make_cycle(tmp_path, "uninterrupted", COMPLETE, range(1, 13), (0,), 12)
    verdict = Verdict(Plan(), tmp_path, stand_in=True, cycles=[first, last])
    verdict.comparison = Comparison(reference, 12, is_final=True)
    assert list(judge_whole(verdict)) == []
    assert conclusion(verdict) == (
        "Ready to submit: interrupted 1 time, its final weights are bit for bit those of an uninterrupted "
        "run. With the stand-in for cycling_utils, not with the real one."
    )
    verdict.comparison.differences = ["optimizer.lr=1 and not 2", *"abcd"]
    verdict.findings += judge_whole(verdict)
    assert "at step 12 it is not bit for bit" in conclusion(verdict)
    assert "What differs: optimizer.lr=1 and not 2, a, b, and 2 more" in conclusion(verdict)
    content = json.loads(as_json(verdict))
    assert (content["fit"], content["stand_in"], content["compared"]["identical"]) == (False, True, False)
    assert [cycle["steps_lost"] for cycle in content["cycles"]] == [2, 0]


@pytest.mark.parametrize(
    ("end", "steps", "until", "what"),
    [
        (COMPLETE, range(9, 13), 12, None),
        (COMPLETE, range(9, 17), 12, "it ended at step 16, and without an interruption it ended at step 12"),
        (COMPLETE, range(9, 11), 12, "it ended at step 10, and without an interruption it ended at step 12"),
        (KILLED, range(9, 17), 12, "it was still training at step 16, and without an interruption it ended"),
        (KILLED, range(9, 11), 12, None),
        (COMPLETE, range(0), 12, None),  # nothing was left to do
    ],
)
def test_it_ends_where_it_ends_without_an_interruption(
    tmp_path: Path, end: str, steps: range, until: int, what: str | None
) -> None:
    first, last = make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", end, steps, (0,), 12)
    reference = make_cycle(tmp_path, "uninterrupted", COMPLETE, range(1, until + 1), (0,), 12)
    cycles = [first, make_cycle(tmp_path, "cycle", KILLED, range(9, 12)), last]
    verdict = Verdict(Plan(), tmp_path, cycles=cycles, comparison=Comparison(reference, 10, True))
    findings = [finding for finding in judge_whole(verdict) if finding.severity == "error"]
    assert len(findings) == (what is not None)
    if what is not None:
        assert what in findings[0].what
        assert "counter" in findings[0].hint


def test_where_time_ends_it_no_two_runs_end_at_the_same_step(tmp_path: Path) -> None:
    last = make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 17), (0,), 12)
    reference = make_cycle(tmp_path, "uninterrupted", COMPLETE, range(1, 13), (0,), 12)
    cycles = [make_cycle(tmp_path), make_cycle(tmp_path, "cycle", KILLED, range(9, 12)), last]
    for is_timed in (False, True):
        reference.trace.ranks[0].is_timed = is_timed
        comparison = Comparison(reference, 10)
        verdict = Verdict(Plan(), tmp_path, cycles=cycles, comparison=comparison)
        errors = [finding for finding in judge_whole(verdict) if finding.severity == "error"]
        assert bool(errors) is not is_timed


@pytest.mark.parametrize("is_repeatable", [True, False])
def test_interruptions_are_not_to_blame_for_what_is_another_training_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_repeatable: bool
) -> None:
    cycles = [make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)]
    last = cycles[-1]
    last.saved = {12: tmp_path / "interrupted"}
    rehearsal = Rehearsal(tmp_path, Plan(), tmp_path / "out", Screen(to_stderr=True))
    names = []

    class Runner:
        def run(self, name: str, nodes: int, procs: int, artifacts: Artifacts, until: object) -> Cycle:
            names.append(name)
            cycle = make_cycle(tmp_path, name, COMPLETE, range(1, 13), (0,), 12)
            cycle.saved = {12: tmp_path / name}
            return cycle

    def differ(one: Path, other: Path) -> list[str]:
        return ["model.weight"] * (one.name == "interrupted" or not is_repeatable)

    monkeypatch.setattr(run, "differences", differ)
    comparison = rehearsal._compare(Runner(), last)  # type: ignore[arg-type]  # as far as it is used
    assert names == ["uninterrupted", "uninterrupted again"]
    (finding,) = judge_whole(Verdict(Plan(), tmp_path, cycles=cycles, comparison=comparison))
    if is_repeatable:
        assert finding.what.startswith("Interrupted it is another training: at step 12 it is not bit for bit")
    else:
        assert finding.what.startswith("It is another training each time: two runs that nothing has")
        assert "the order of a set" in finding.hint
    assert finding.what.endswith("What differs: model.weight")


def test_only_what_was_saved_after_the_last_interruption_is_compared(tmp_path: Path) -> None:
    last = make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)
    reference = make_cycle(tmp_path, "uninterrupted", COMPLETE, range(1, 13), (0,), 12)
    reference.saved = dict.fromkeys((4, 8, 10, 12), tmp_path)
    for saved, step in (((8, 11), None), ((8, 10, 11), 10), ((4, 8, 10, 12), 12), ((), None)):
        last.saved = dict.fromkeys(saved, tmp_path)
        assert last_in_common(last, reference) == step
    verdict = Verdict(Plan(), tmp_path, cycles=[make_cycle(tmp_path), last], comparison=Comparison(reference))
    (finding,) = judge_whole(verdict)
    assert "After the last interruption" in finding.what
    assert "--save-steps N --keep-checkpoints" in finding.hint


def test_a_training_that_nothing_interrupted_proves_nothing(tmp_path: Path) -> None:
    verdict = Verdict(Plan(), tmp_path, cycles=[make_cycle(tmp_path, end=COMPLETE, codes=(0,))])
    (finding,) = judge_whole(verdict)
    assert "complete before it could be interrupted" in finding.what
    assert "--cycle-seconds" in finding.hint


@pytest.mark.parametrize(
    ("difference", "generators", "hints"),
    [
        ("model.w", [], ["put it into Trainer.state()", "plain attribute"]),
        (
            "model.w",
            ["dataset.noise"],
            ["generator of their own (dataset.noise)", "put it into Trainer.state()"],
        ),
        (
            "average.n=3 and not 9",
            ["dataset.noise"],
            ["it is the part itself that does not come back", "a time in seconds"],
        ),
    ],
)
def test_the_causes_are_those_that_lead_to_what_differs(
    tmp_path: Path, difference: str, generators: list[str], hints: list[str]
) -> None:
    first, last = make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)
    last.trace.ranks[0].generators = generators
    reference = make_cycle(tmp_path, "uninterrupted", COMPLETE, range(1, 13), (0,), 12)
    verdict = Verdict(Plan(), tmp_path, cycles=[first, last])
    verdict.comparison = Comparison(reference, 12, True, differences=[difference])
    (finding,) = judge_whole(verdict)
    assert all(hint in finding.hint for hint in hints)
    assert ("generator" in finding.hint) is ("generator" in hints[0])


def test_of_each_part_that_differs_one_place_is_shown(tmp_path: Path) -> None:
    cycles = [make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)]
    reference = make_cycle(tmp_path, "uninterrupted", COMPLETE, range(1, 13), (0,), 12)
    differences = ["metrics.best=1 and not 2", "optimizer.a", "optimizer.b", "model.c", "model.d"]
    verdict = Verdict(
        Plan(), tmp_path, cycles=cycles, comparison=Comparison(reference, 12, True, differences=differences)
    )
    (finding,) = judge_whole(verdict)
    assert finding.what.endswith("differs: metrics.best=1 and not 2, optimizer.a, model.c, and 2 more")


def test_what_has_a_state_and_is_not_saved_makes_it_unfit(tmp_path: Path) -> None:
    cycles = [make_cycle(tmp_path), make_cycle(tmp_path, "cycle 2", COMPLETE, range(9, 13), (0,), 12)]
    cycles[0].trace.ranks[0].left_out = ["average"]
    (finding,) = judge_whole(Verdict(Plan(), tmp_path, cycles=cycles))
    assert finding.severity == "error"
    assert "The training holds 'average', which has a state and is not saved" in finding.what
    assert "Add 'average' to what state() returns, or to left_out" in finding.hint


@pytest.mark.parametrize(
    "bad",
    [["--nodes", "0"], ["--cycles", "1"], ["--interrupt", "never"], ["--cycle-seconds", "-1"], ["--wrong"]],
)
def test_arguments_that_make_no_sense(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(bad)
    assert stop.value.code == ExitCode.USAGE
    assert bad[0] in capsys.readouterr().err


def test_further_arguments_come_after_two_dashes() -> None:
    assert parse_arguments(["--nodes", "3", "--", "--epochs", "2"]).arguments == ["--epochs", "2"]


def refuse(capsys: pytest.CaptureFixture[str], *command_line: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(command_line), PROJECT)
    return stop.value.code, capsys.readouterr().err


def test_no_picture_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, said = refuse(capsys, "--stand-in", "--plot", "x.png")
    assert code == ExitCode.UNFIT
    assert said == (
        "ERROR: The package matplotlib, which draws the picture, is not installed: "
        f"{sys.executable}. Install it: {sys.executable} -m pip install matplotlib\n"
    )


def test_no_rehearsal_without_cycling_utils(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, said = refuse(capsys)
    assert code == ExitCode.UNFIT
    assert "cycling_utils, which the ISC has, is not installed" in said
    assert "requirements-cycling-utils.txt" in said
    assert "--stand-in" in said


def test_a_folder_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("")
    code, said = refuse(capsys, "--stand-in", "--output", str(tmp_path))
    assert code == ExitCode.USAGE
    assert f"The folder for the logs is not empty: {tmp_path}. Name another one with --output." in said


@pytest.mark.parametrize(("option", "name"), [("--plot", "curve.png"), ("--output", "deep/logs")])
def test_what_a_rehearsal_makes_is_no_part_of_the_project(
    capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    """`submit` would say that the project was changed since."""
    code, said = refuse(capsys, "--stand-in", option, str(PROJECT / name))
    assert code == ExitCode.USAGE
    assert f"for a changed one: {PROJECT / name}. Name a place outside of the project" in said
    assert not (PROJECT / name).parent.joinpath("logs").exists()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['x', 'rehearse', '--help']\nfrom isc_runtime.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\nassert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "--cycle-seconds" in ended.stdout
