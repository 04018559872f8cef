"""What a single cycle shows."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.rehearsal.cycle import COMPLETE, FAILED, HUNG, INTERRUPTED, TERMINATED, Cycle
from isc_runtime.rehearsal.plan import CYCLE_SECONDS, Plan
from isc_runtime.submission.finding import Finding, Severity

POLL = "Let every rank call checkpointer.poll() after every batch: it saves when a signal asks to stop."
SAVE_MORE = "Save more often: --save-steps."
NO_FILE = os.strerror(errno.ENOENT)
OWN_DISK = (
    " On the ISC each node has a disk of its own, new in each cycle: "
    "what another node or cycle wrote is not there."
)
EXIT_CODE = (
    "The ISC takes 0 for completed. Let launch.sh end with the code of what it starts: "
    "no '|| true', no other command and no pipe after it."
)


def judge_start(cycle: Cycle, expected_code: int, project: Path) -> Iterator[Finding]:
    """Judges the trial start, in which the ranks were made to end with a code at once.

    Args:
        cycle: the trial start.
        expected_code: what they were made to end with.
        project: where the project is that should have been started.
    """
    scripts = sorted({rank.script for rank in cycle.trace.ranks.values() if rank.script is not None})
    others = [script for script in scripts if not script.is_relative_to(project.resolve())]
    if others and (project / others[0].name).is_file():
        what = f"The command starts {others[0]}, and not the {others[0].name} of this project, in {project}"
        hint = "Write the whole path of the project: a rehearsal maps that to where it is here."
        yield Finding("experiment.isc", what, hint)
    elif cycle.end == COMPLETE:
        what = f"A failure is hidden: the ranks ended with {expected_code}, and the command with 0"
        yield Finding(
            "launch.sh", what if cycle.trace.ranks else "It ended with 0 and trained nothing", EXIT_CODE
        )
    elif not cycle.trace.ranks:
        ended = (
            "The command did not come to"
            if cycle.end == HUNG
            else f"The command ended with {_codes(cycle)} before"
        )
        yield _finding(cycle, f"{ended} train.py: {cycle.reason()}", "Fix what it says.")


def judge_cycle(
    cycle: Cycle, before: Cycle | None, plan: Plan, artifact_step: int | None = None
) -> Iterator[Finding]:
    """Judges a cycle, by itself and by what was there when it began.

    Args:
        cycle: the cycle.
        before: the one before, which has shipped something.
        plan: the rehearsal.
        artifact_step: the step of the checkpoint in the artifact that the first one started from.
    """
    yield from judge_end(cycle)
    yield from _judge_resume(cycle, before.synced.step if before is not None else artifact_step)
    yield from _judge_saves(cycle, plan)


def judge_end(cycle: Cycle) -> Iterator[Finding]:
    """Judges how it ended."""
    if cycle.end == HUNG:
        yield _judge_hang(cycle)
    elif cycle.end == FAILED:
        last = cycle.trace.last_step
        when = "before its first step" if last is None else f"after step {last}"
        what = f"It ended by itself with {_codes(cycle)}, {when}: {cycle.reason()}"
        yield _finding(cycle, what, f"Fix what it says.{OWN_DISK if NO_FILE in what else ''}")
    elif cycle.end == TERMINATED:
        yield from _judge_stop(cycle)


def _judge_stop(cycle: Cycle) -> Iterator[Finding]:
    lost = (cycle.trace.last_step or 0) - (cycle.synced.step or 0)
    if None in cycle.codes:
        hint = f"{POLL} Or give it more time with --grace-seconds."
        yield _finding(cycle, "It was asked to stop with SIGTERM, and did not end in time", hint)
    elif 0 in cycle.codes:
        yield _finding(cycle, "It was interrupted by SIGTERM, and the command ended with 0", EXIT_CODE)
    elif lost > 0 and cycle.trace.steps_are_known:
        what = f"It was asked to stop with SIGTERM, and did not save: {lost} steps are lost"
        yield _finding(cycle, what, POLL)


def _judge_hang(cycle: Cycle) -> Finding:
    places = [f"rank {rank} is in {place_in(stack)}" for rank, stack in sorted(cycle.stacks.items())]
    return _finding(
        cycle,
        f"It hangs, no step was done in time: {', '.join(places) or 'no rank has started'}",
        "A collective that only some ranks call looks like this: save(), poll() and all of group is called "
        f"by every rank. All stacks: {cycle.logs[0].parent}. A step may take so long? --hang-seconds.",
    )


def place_in(stack: str) -> str:
    """Where the main thread stands, as faulthandler tells it: the innermost line of the project's own code.

    Args:
        stack: of all threads, the main one last.
    """
    main = stack.rpartition("(most recent call first):")[2]
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', main)
    own = [frame for frame in frames if "site-packages" not in frame[0] and "/lib/python" not in frame[0]]
    users = [frame for frame in own if "isc_runtime" not in Path(frame[0]).parts]
    for file, line, function in users or own or frames:
        inner = own[0][2] if own and own[0] not in users else ""
        return f"{Path(file).name}:{line}, {function}(){f', in {inner}()' if inner else ''}"
    return "an unknown place"


def _judge_resume(cycle: Cycle, shipped: int | None) -> Iterator[Finding]:
    began = cycle.trace.started_at_step
    if began is not None and shipped is not None and began < shipped:
        what = f"It does not resume: it began at step {began}, and a checkpoint of step {shipped} was there"
        hint = "Call checkpointer.restore() before the first batch, and keep --fresh out of the command."
        yield _finding(cycle, what, hint)


def _judge_saves(cycle: Cycle, plan: Plan) -> Iterator[Finding]:
    """Something was trained: was anything of it shipped?"""
    trained = cycle.trained
    if not trained or cycle.end in (HUNG, FAILED):
        return
    if not cycle.synced.shipped:
        yield _judge_lost(cycle, trained)
    elif cycle.end in INTERRUPTED and not cycle.has_saved:
        limit = plan.cycle_seconds or CYCLE_SECONDS
        # Of a cycle that somebody made so short it is a warning; the ISC's own length is what counts.
        severity: Severity = "error" if plan.cycle_seconds is None else "warning"
        what = f"It trained {trained} steps and completed no checkpoint in {limit:g} s: they are lost"
        yield _finding(cycle, what, SAVE_MORE, severity)


def _judge_lost(cycle: Cycle, trained: int) -> Finding:
    saved = sorted(cycle.trace.saved)
    astray = [path for path in saved if not Path(path).is_relative_to(cycle.checkpoints)]
    if astray:
        what = f"Its checkpoints go outside of the artifact, and are lost with the node: {astray[0]}"
        hint = "Save with the Checkpointer: it puts them where CHECKPOINT_ARTIFACT_PATH says."
    elif saved:
        what = f"Its checkpoints are plain files in the artifact, which are not shipped: {saved[0]}"
        hint = "Save with the Checkpointer: it makes the directories and the link that the ISC looks for."
    else:
        what = f"It trained {trained} steps and completed no checkpoint: they are lost"
        hint = SAVE_MORE
    return _finding(cycle, what, hint)


def _finding(cycle: Cycle, what: str, hint: str, severity: Severity = "error") -> Finding:
    return Finding(cycle.name, what, hint, severity)


def _codes(cycle: Cycle) -> str:
    """The exit codes of the nodes; one, if they are all the same."""
    said = ["no end" if code is None else f"exit code {code}" for code in cycle.codes]
    each = [f"{what} on node {node}" for node, what in enumerate(said)]
    return said[0] if len(set(said)) == 1 else ", ".join(each)
