"""A whole rehearsal: check, trial start, cycles, the uninterrupted run, comparison."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from isc_runtime.checkpointing.on_disk.durable import write_durably
from isc_runtime.errors import IscError
from isc_runtime.rehearsal import artifact, cycle_findings, trace, verdict
from isc_runtime.rehearsal.command import DATA, localizer
from isc_runtime.rehearsal.cycle import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    Cycle,
    CycleRunner,
    Interruption,
    Reached,
)
from isc_runtime.rehearsal.duplicate import Places, temporary_folders
from isc_runtime.rehearsal.node import Artifacts, Machine
from isc_runtime.rehearsal.plan import CYCLE_SECONDS, CyclePlan, Plan
from isc_runtime.rehearsal.report import Screen, as_json, conclusion
from isc_runtime.rehearsal.verdict import Comparison, Verdict, last_in_common
from isc_runtime.rehearsal.weights import differences
from isc_runtime.sizes import readable_size
from isc_runtime.submission import journal
from isc_runtime.submission.facts import LAUNCH_FILE, facts
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.project import check, homes
from isc_runtime.toml import load_toml

STAND_IN = Path("isc_runtime", "tests", "stand_in")
TRIAL, REFERENCE, AGAIN = "trial start", "uninterrupted", "uninterrupted again"
ROOM = 3  # checkpoints: less is a full disk to a training, which keeps the old while it writes the new
EXACT = {  # by whether the ranks compute on GPUs
    False: "bit for bit is meant on CPUs; on GPUs it takes --deterministic, too, which is the default",
    True: "bit for bit is meant on GPUs of this kind, with --deterministic, the default",
}
IN_COPIES = "each node has a copy of its own, and a TMPDIR, new in each cycle; all have your home directory"
IN_PLACE = "it runs in the project itself: what the command deletes there is deleted"
SHARED = "all nodes and cycles share it, which on the ISC they do not: one finds what another leaves there"
TRIAL_CODE = 7  # what the ranks end with in the trial start


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal of a project.

    Attributes:
        root: the project. It runs in a copy of it.
        plan: what to do.
        folder: for logs, TensorBoard's files and verdict.json; for artifacts while it lasts. It is made.
        screen: where it says how far it has come.
        data_root: what takes the place of /data.
        stand_in: whether isc_runtime/tests/stand_in takes the place of cycling_utils.
        extra: further arguments for train.py.
        in_place: whether it runs in the project itself.
        from_artifact: a checkpoint artifact that the training starts from.
    """

    root: Path
    plan: Plan
    folder: Path
    screen: Screen
    data_root: Path | None = None
    stand_in: bool = False
    extra: Sequence[str] = ()
    in_place: bool = False
    from_artifact: Path | None = None

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts: removed at the end, unless the project is not ready."""
        return self.folder / "artifacts"

    def logs_of(self, run: str) -> Path:
        """The lossy artifact of a run: TensorBoard's files."""
        return self.folder / "tensorboard" / run

    def run(self) -> Verdict:
        """Rehearses, and leaves no process behind, whatever happens.

        Raises:
            IscError: this place is not ready to rehearse in.
        """
        result = Verdict(self.plan, self.folder, self.stand_in, facts(self.root), self.data_root or DATA)
        is_over = False
        try:
            self._check(result)
            if result.is_ready:
                self._perform(result)
            write_durably(self.folder / "verdict.json", as_json(result).encode())
            self._write_down(result)
            is_over = True
        except OSError as error:
            raise IscError(
                f"The rehearsal cannot go on ({error.strerror})",
                error.filename or self.folder,
                "If there is no room: --output puts its folder elsewhere, TMPDIR the copies of the project.",
            ) from error
        finally:
            if result.is_ready or not is_over:
                shutil.rmtree(self.artifacts, ignore_errors=True)
        return result

    def _write_down(self, result: Verdict) -> None:
        """`submit` reads it."""
        file = self.root / journal.REHEARSALS
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = {"time": now, "files": result.project["files"], "fit": result.is_ready}
        entry |= {"conclusion": conclusion(result), "stand_in": self.stand_in, "folder": str(self.folder)}
        try:
            journal.append(file, entry)
        except OSError as error:
            self.screen.say(f"Not written down in {file} ({error.strerror}): `submit` will not know of it")

    def _check(self, result: Verdict) -> None:
        """What is wrong with the project costs no second of training."""
        result.findings += [finding for finding in check(self.root) if _concerns(finding)]
        launch_file = self._read_launch_file()
        result.findings += verdict.judge_gpus(launch_file.get("gpus"), self.plan)
        is_cycle = launch_file.get("compute_mode", "cycle") == "cycle"
        result.cycle_seconds = self.plan.cycle_seconds or (CYCLE_SECONDS if is_cycle else None)

    def _perform(self, result: Verdict) -> None:
        with temporary_folders() as (folder, short):
            path = [trace.STARTUP, *([self.root / STAND_IN] if self.stand_in else [])]
            machine = Machine.here(path, short)
            with machine.watched(self.artifacts, folder, short):
                places = self._places(Places(self.root, folder, result.data, short), result)
                self._cycles(self._runner(machine, result, places), result)

    def _places(self, places: Places, result: Verdict) -> Places:
        """Where the project is while it runs."""
        if self.in_place:
            result.notes += [IN_PLACE, SHARED]
            return places
        nodes = max(planned.nodes for planned in self.plan.draw())
        with self.screen.doing("Copying the project"):
            copy = places.take_image([Path(home).name for home in homes(self.root)], nodes)
        what = f"{copy.files} files, {readable_size(copy.size)}, as the image would take them"
        result.notes.append(f"it runs in a copy of the project ({what}), which is deleted in the end")
        result.notes.append(IN_COPIES)
        return places

    def _runner(self, machine: Machine, result: Verdict, places: Places) -> CycleRunner:
        text = str(self._read_launch_file()["command"])
        localized = localizer(text, self.root, self.data_root, self.extra, self.in_place)
        command = localized(places.project(0))
        ranks = self.plan.nodes * self.plan.procs
        on_gpus = machine.has_gpus(self.plan.nodes, self.plan.procs)
        where = f"{ranks} ranks on {'GPUs, by NCCL' if on_gpus else 'the CPU, by gloo'}"
        result.notes += [*command.notes, where, EXACT[on_gpus], f"node 0 runs: {command.text}"]
        for note in result.notes:
            self.screen.say(note)
        traces = self.artifacts / "traces"
        return CycleRunner(
            machine,
            places,
            lambda project: localized(project).text,
            self.folder,
            traces,
            self.plan,
            self.screen.detail,
        )

    def _read_launch_file(self) -> dict[str, object]:
        try:
            return load_toml((self.root / LAUNCH_FILE).read_text(encoding="utf-8"))
        except ImportError as error:
            raise IscError(str(error), LAUNCH_FILE, "Install tomli, or use Python 3.11 or newer.") from error
        except (OSError, ValueError):
            return {}  # the check says why

    def _cycles(self, runner: CycleRunner, result: Verdict) -> None:
        result.findings += self._trial(runner)
        artifacts = Artifacts(self.artifacts / "checkpoints", self.logs_of("interrupted"))
        began = self._make(artifacts)
        if began is not None:
            self.screen.say(f"It starts from the artifact {self.from_artifact}, at step {began}")
        for planned in self.plan.draw():
            if not result.is_ready:
                return
            before = result.cycles[-1] if result.cycles else None
            artifacts = self._moved(artifacts, planned)
            cycle = self._cycle(runner, planned, artifacts)
            if cycle.end == FAILED:
                self._check_room()
            cycle.synced = artifact.foresee(artifacts.checkpoints)
            if (
                cycle.end in INTERRUPTED and not planned.is_last
            ):  # otherwise all that it saved can be compared
                artifact.sync(artifacts.checkpoints)
                artifact.leave_only_what_was_shipped(artifacts.checkpoints, cycle.synced)
            result.cycles.append(cycle)
            result.findings += cycle_findings.judge_cycle(cycle, before, self.plan, began)
            if cycle.end == COMPLETE:
                break
        last = result.cycles[-1]
        if result.is_ready and not self.plan.resize:
            result.comparison = self._compare(runner, last)
        result.findings += verdict.judge_whole(result)

    def _make(self, artifacts: Artifacts) -> int | None:
        """What a new experiment finds; returns the step that it starts from, if there is one."""
        artifacts.make()
        if self.from_artifact is None:
            return None
        shutil.copytree(self.from_artifact, artifacts.checkpoints, symlinks=True, dirs_exist_ok=True)
        return artifact.step_of_artifact(self.from_artifact)

    def _trial(self, runner: CycleRunner) -> list[Finding]:
        """Does the command start train.py, and does it end with an error if that does?"""
        artifacts = Artifacts(self.artifacts / "trial", self.logs_of("trial"))
        artifacts.make()
        with self.screen.doing("Trial start"):
            fail = {trace.FAIL_VARIABLE: str(TRIAL_CODE)}
            cycle = runner.run(TRIAL, 1, 1, artifacts, Reached(artifacts.checkpoints), fail)
        shutil.rmtree(artifacts.logs, ignore_errors=True)
        findings = list(cycle_findings.judge_start(cycle, TRIAL_CODE, runner.places.project(0)))
        if not findings:  # it tells of a failure that was made, and is none
            shutil.rmtree(cycle.logs[0].parent)
        return findings

    def _moved(self, artifacts: Artifacts, planned: CyclePlan) -> Artifacts:
        if self.plan.move and planned.number > 1:
            checkpoints = self.artifacts / f"checkpoints-{planned.number}"
            artifacts.checkpoints.rename(checkpoints)
            artifacts = Artifacts(checkpoints, artifacts.logs)
        artifacts.make()
        return artifacts

    def _cycle(self, runner: CycleRunner, planned: CyclePlan, artifacts: Artifacts) -> Cycle:
        until = Interruption(self.plan, planned, artifacts.checkpoints)
        what = f"Cycle {planned.number} of {self.plan.cycles}, {planned.ranks} ranks"
        with self.screen.doing(what):
            name = f"cycle {planned.number}"
            cycle = runner.run(name, planned.nodes, planned.procs, artifacts, until)
        cycle.has_saved, cycle.deleted_within = until.has_saved(), until.deleted
        return cycle

    def _check_room(self) -> None:
        """A training that fails on a full disk is not to blame."""
        sizes = [file.stat().st_size for file in self.artifacts.rglob("*") if file.is_file()]
        needed = ROOM * max(sizes, default=0)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise IscError(
                f"The disk is full: a rehearsal needs room for {ROOM} checkpoints, and {free} bytes are free",
                self.folder,
                "Make room, or put its folder elsewhere with --output.",
            )

    def _compare(self, runner: CycleRunner, last: Cycle) -> Comparison:
        """Runs the same training without an interruption, as far as the other one has come."""
        reference = self._uninterrupted(runner, last, REFERENCE, "The same without an interruption")
        step = last_in_common(last, reference)
        ends = {max(cycle.saved, default=None) for cycle in (last, reference)}
        is_final = last.end == reference.end == COMPLETE and ends == {step}
        comparison = Comparison(reference, step, is_final)
        if step is not None:
            with self.screen.doing(f"Comparing the checkpoints of step {step}"):
                comparison.differences = differences(last.saved[step], reference.saved[step])
        if comparison.differences:  # are the interruptions to blame?
            again = self._uninterrupted(runner, last, AGAIN, "Once more, for it is another training")
            common = max(set(reference.saved) & set(again.saved), default=None)
            if common is not None and (found := differences(reference.saved[common], again.saved[common])):
                comparison.step, comparison.differences, comparison.is_repeatable = common, found, False
        return comparison

    def _uninterrupted(self, runner: CycleRunner, last: Cycle, name: str, what: str) -> Cycle:
        artifacts = Artifacts(self.artifacts / name, self.logs_of(name))
        self._make(artifacts)
        step = None if last.end == COMPLETE else max(last.saved, default=0)
        with self.screen.doing(what):
            cycle = runner.run(name, last.nodes, last.procs, artifacts, Reached(artifacts.checkpoints, step))
        cycle.synced = artifact.foresee(artifacts.checkpoints)
        return cycle


def _concerns(finding: Finding) -> bool:
    """Not of other launch files, of which there may be some."""
    file = finding.where.partition(":")[0]
    return not file.endswith(".isc") or file == LAUNCH_FILE
