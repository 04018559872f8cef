"""One cycle: its nodes start, train, are watched, and are interrupted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isc_runtime.rehearsal import artifact, trace
from isc_runtime.rehearsal.artifact import Synced
from isc_runtime.rehearsal.duplicate import Places
from isc_runtime.rehearsal.node import Artifacts, Machine, Node, free_port
from isc_runtime.rehearsal.plan import CYCLE_SECONDS, CyclePlan, Plan
from isc_runtime.rehearsal.trace import Trace

LOOK = 0.05  # seconds between two looks at what goes on
ERROR_LINE = re.compile(
    r"^(?:ERROR: |\w+Error(?:: |$)|\S+: error: ).*", re.MULTILINE
)  # ours, Python's, argparse's
NO_REASON = "isc_runtime: this experiment "  # what a new one goes on from
SETTLE = 20.0  # seconds for the other nodes to end after one has ended

# How a cycle can end.
COMPLETE = "complete"
FAILED = "failed"
HUNG = "hung"
KILLED = "SIGKILL"
TERMINATED = "SIGTERM"
ENOUGH = "far enough"
INTERRUPTED = (KILLED, TERMINATED)


@dataclass
class Cycle:
    """A cycle that is over, or how far it has come.

    Attributes:
        name: what its folder and its row are called.
        nodes: how many nodes.
        procs: ranks on each.
        checkpoints: the checkpoint artifact in this cycle.
        trace: what the ranks told.
        logs: of each node.
        end: one of the constants above.
        codes: what the nodes' commands ended with; None for one that had to be killed.
        started_at: when, seconds since the epoch.
        saved: the complete checkpoints that were there at its end, by step.
        has_saved: whether it completed one.
        stacks: where each rank stood when no step was done in time.
        synced: what the sync at its end did.
        syncs: how many syncs there were within it.
        deleted_within: what those deleted.
        stop_seconds: from SIGTERM to the end of all processes; None if it was not asked to stop.
        checkpoint_bytes: of the largest complete checkpoint that was there at its end.
        left: files that it made or changed in the copies of the project, by their names there.
    """

    name: str
    nodes: int
    procs: int
    checkpoints: Path
    trace: Trace
    logs: list[Path]
    end: str = ""
    codes: list[int | None] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    saved: dict[int, Path] = field(default_factory=dict)
    has_saved: bool = False
    stacks: dict[int, str] = field(default_factory=dict)
    synced: Synced = field(default_factory=Synced)
    syncs: int = 0
    deleted_within: tuple[str, ...] = ()
    stop_seconds: float | None = None
    checkpoint_bytes: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        return self.nodes * self.procs

    @property
    def trained(self) -> int:
        """Steps that were taken in it; batches, if the steps are not known."""
        last, began = self.trace.last_step, self.trace.started_at_step
        return self.trace.batches if last is None or began is None else last - began

    @property
    def first_step_seconds(self) -> float | None:
        """Seconds from the start of the commands to the first step."""
        begun = self.trace.begun_at
        return None if begun is None else begun - self.started_at

    @property
    def first_save_seconds(self) -> float | None:
        """Seconds from the start of the commands to the first checkpoint that it completed, link and all."""
        published = self.trace.ranks[0].published if 0 in self.trace.ranks else {}
        return None if not published else min(published.values()) - self.started_at

    def reason(self) -> str:
        """What the logs give as the reason of a failure: the lines with an error, or else the last ones."""
        texts = [log.read_text(errors="replace") for log in self.logs]
        errors = [line for text in texts for line in ERROR_LINE.findall(text)]
        said = [
            [line for line in text.splitlines() if line and not line.startswith(NO_REASON)] for text in texts
        ]
        lines = errors or [line for each in said for line in each[-2:]]
        return " | ".join(dict.fromkeys(lines))[:1000]


Until = Callable[[Cycle], str | None]  # looks at a cycle, and says with which end it is to be ended now


@dataclass(frozen=True)
class CycleRunner:
    """Runs cycles, all of them alike.

    Attributes:
        machine: what the nodes run on.
        places: where they run.
        command: what a node runs, for bash, by where the project is on it.
        folder: each cycle gets one of its own in it, for its logs.
        traces: the same, for what the ranks tell.
        plan: the limits.
        tell: shows how far it has come.
    """

    machine: Machine
    places: Places
    command: Callable[[Path], str]
    folder: Path
    traces: Path
    plan: Plan
    tell: Callable[[str], None]

    def run(
        self,
        name: str,
        nodes: int,
        procs: int,
        artifacts: Artifacts,
        until: Until,
        variables: Mapping[str, str] | None = None,
    ) -> Cycle:
        """Runs a cycle; none of its processes is left.

        Args:
            name: what to call it.
            nodes: how many nodes.
            procs: ranks on each.
            artifacts: what the nodes share.
            until: when to end it.
            variables: more for the environment.
        """
        folder, traces = (parent / name.replace(" ", "-") for parent in (self.folder, self.traces))
        folder.mkdir(parents=True)
        traces.mkdir(parents=True)
        logs = [folder / f"node_{number}.log" for number in range(nodes)]
        cycle = Cycle(name, nodes, procs, artifacts.checkpoints, Trace(traces), logs)
        running: list[Node] = []
        try:
            self._start(cycle, artifacts, variables or {}, running)
            cycle.end = self._watch(cycle, running, until)
            if cycle.end == TERMINATED:
                begun = time.monotonic()
                self._ask_to_stop(running)
                cycle.stop_seconds = time.monotonic() - begun
            cycle.codes = [node.code for node in running]
        finally:
            self.machine.end_all()
            for node in running:
                node.kill()
        cycle.trace.read()
        cycle.saved = artifact.complete_checkpoints(artifacts.checkpoints)
        cycle.checkpoint_bytes = max(map(artifact.size_of, cycle.saved.values()), default=0)
        cycle.left = self.places.left()
        return cycle

    def _start(
        self, cycle: Cycle, artifacts: Artifacts, variables: Mapping[str, str], running: list[Node]
    ) -> None:
        places = [self.places.renewed(number) for number in range(cycle.nodes)]
        there = (self.places.root, self.places.data)
        cycle.started_at, port = time.time(), free_port()  # copying is no part of a cycle
        for number, (place, log) in enumerate(zip(places, cycle.logs, strict=True)):
            own = (*place.own, artifacts.checkpoints, artifacts.logs, cycle.trace.folder)
            environment = {
                **self.machine.environment(number, cycle.nodes, cycle.procs, port, artifacts),
                "TMPDIR": str(place.temporary),
                trace.FOLDER_VARIABLE: str(cycle.trace.folder),
                trace.FILES_VARIABLE: json.dumps([self.places.since, own, there], default=str),
                **variables,
            }
            running.append(Node(number, self.command(place.project), place.temporary, environment, log))

    def _watch(self, cycle: Cycle, running: list[Node], until: Until) -> str:
        progress_at = time.monotonic()
        while True:
            time.sleep(LOOK)
            if cycle.trace.read():
                progress_at = time.monotonic()
                self.tell(f"step {cycle.trace.last_step or 0}")
            if any(node.code is not None for node in running):
                return self._settled(running)
            has_begun = cycle.trace.begun_at is not None
            limit = self.plan.hang_seconds if has_begun else self.plan.start_seconds
            if time.monotonic() - progress_at > limit:
                cycle.stacks = cycle.trace.dump_stacks()
                for rank, stack in cycle.stacks.items():
                    (cycle.logs[0].parent / f"stacks_of_rank_{rank}.txt").write_text(stack)
                return HUNG
            if end := until(cycle):
                return end

    def _settled(self, running: list[Node]) -> str:
        """One node has ended. The others are to follow: an end on all nodes is an end of the training."""
        self._wait(running, SETTLE)
        return COMPLETE if all(node.code == 0 for node in running) else FAILED

    def _ask_to_stop(self, running: list[Node]) -> None:
        for node in running:
            node.ask_to_stop()
        self._wait(running, self.plan.grace_seconds)

    def _wait(self, running: list[Node], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (
            any(node.code is None for node in running) or self.machine.is_busy()
        ):
            time.sleep(LOOK)


class Interruption:
    """Ends a cycle as planned; syncs the artifact meanwhile, if that is planned.

    Args:
        plan: the rehearsal.
        planned: the cycle.
        checkpoints: the artifact.
    """

    def __init__(self, plan: Plan, planned: CyclePlan, checkpoints: Path) -> None:
        self._plan = plan
        self._planned = planned
        self._checkpoints = checkpoints
        self._link_before: str | None = None  # at the first step: restoring may fix the link
        self._has_begun = False
        self._step: int | None = None
        self.deleted: tuple[str, ...] = ()

    def has_saved(self) -> bool:
        """Whether a checkpoint was completed since the first step: then the link points elsewhere."""
        return self._has_begun and artifact.newest_link(self._checkpoints) != self._link_before

    def __call__(self, cycle: Cycle) -> str | None:
        if cycle.trace.begun_at is None:
            return None
        if not self._has_begun:
            self._has_begun, self._link_before = True, artifact.newest_link(self._checkpoints)
        seconds = time.time() - cycle.trace.begun_at
        if self._plan.sync_seconds and seconds >= self._plan.sync_seconds * (cycle.syncs + 1):
            cycle.syncs += 1
            self.deleted += artifact.sync(self._checkpoints).deleted
        if seconds < self._plan.seconds(self._planned) and not self._has_come_far_enough(cycle):
            return None
        if self._planned.is_last:  # something has to be there to compare, but nobody waits for ever
            return ENOUGH if self.has_saved() or seconds > CYCLE_SECONDS else None
        return TERMINATED if self._planned.how == "term" else KILLED

    def _has_come_far_enough(self, cycle: Cycle) -> bool:
        last, began = cycle.trace.last_step, cycle.trace.started_at_step
        if last is None or began is None:
            return False
        if self._step is None and self.has_saved():
            saved = artifact.newest_step(self._checkpoints)
            self._step = None if saved is None else self._plan.step(self._planned, began, saved)
        return self._step is not None and last >= self._step


class Reached:
    """Ends a cycle when a checkpoint of this step or a later one is complete.

    Args:
        checkpoints: the artifact.
        step: None lets the training go on to its end.
    """

    def __init__(self, checkpoints: Path, step: int | None = None) -> None:
        self._checkpoints = checkpoints
        self._step = step

    def __call__(self, cycle: Cycle) -> str | None:
        last = cycle.trace.last_step
        if self._step is None or last is None or last < self._step:
            return None
        saved = artifact.complete_checkpoints(self._checkpoints)
        return ENOUGH if max(saved, default=-1) >= self._step else None
