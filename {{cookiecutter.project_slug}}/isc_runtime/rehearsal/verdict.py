"""Is the project ready to submit, or not and why?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isc_runtime.rehearsal import samples
from isc_runtime.rehearsal.cycle import COMPLETE, FAILED, HUNG, INTERRUPTED, Cycle
from isc_runtime.rehearsal.cycle_findings import judge_end
from isc_runtime.rehearsal.elsewhere import judge_elsewhere
from isc_runtime.rehearsal.left_behind import judge_left_behind
from isc_runtime.rehearsal.pace import Pace, judge_pace
from isc_runtime.rehearsal.plan import Plan
from isc_runtime.rehearsal.samples import Taken
from isc_runtime.rehearsal.weights import LAST
from isc_runtime.submission.finding import Finding

TRAINING = "train.py"  # where the cause is, as far as a rehearsal can tell
NOT_REPEATABLE = (
    "Look for what differs from start to start: the order of a set or of a folder's files (sort them), the "
    "time, os.urandom and uuid, generators without a seed, files that the other run has left, threads."
)
SHOWN = 3  # of many differences, each of another part


@dataclass
class Comparison:
    """The interrupted training beside the same one without an interruption.

    Attributes:
        reference: the uninterrupted run.
        step: of the checkpoints that were compared; None if there is no step that both saved.
        is_final: whether they are the last ones of the training.
        differences: where they differ; empty if they are equal bit for bit.
        is_repeatable: False if two uninterrupted runs differ, too: `step` and `differences` are theirs then.
    """

    reference: Cycle
    step: int | None = None
    is_final: bool = False
    differences: list[str] = field(default_factory=list)
    is_repeatable: bool = True


@dataclass
class Verdict:
    """What came out.

    Attributes:
        plan: what was to be done.
        folder: where the logs are.
        stand_in: whether cycling_utils was not the real one.
        project: what was rehearsed (isc_runtime.submission.facts).
        data: the directory with the datasets.
        cycles: what was done.
        findings: errors stop it, warnings are for a person to judge.
        notes: in what this differed from the real thing.
        cycle_seconds: how long a cycle lasts; None where the mode has no such limit.
        comparison: None if it did not come to it, or with `resize`.
    """

    plan: Plan
    folder: Path
    stand_in: bool = False
    project: dict[str, Any] = field(default_factory=dict)
    data: Path = Path("/data")
    cycles: list[Cycle] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cycle_seconds: float | None = None
    comparison: Comparison | None = None

    @property
    def pace(self) -> Pace:
        """How soon a cycle gets somewhere."""
        return Pace.of(self.cycles, self.cycle_seconds)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def is_ready(self) -> bool:
        return not self.errors

    @property
    def went_on(self) -> bool:
        """Whether it was trained on after an interruption."""
        pairs = itertools.pairwise(self.cycles)
        return any(cycle.end in INTERRUPTED and after.trained for cycle, after in pairs)

    @property
    def interruptions(self) -> int:
        """How often the training was interrupted."""
        return sum(cycle.end in INTERRUPTED for cycle in self.cycles)


def last_in_common(last: Cycle, reference: Cycle) -> int | None:
    """The last step at which both saved after the last interruption; None if there is none.

    What was saved before that says nothing of what the last cycle has made of it.
    """
    began = last.trace.started_at_step
    common = set(last.saved) & set(reference.saved)
    return max((step for step in common if began is None or step > began), default=None)


def judge_gpus(gpus: object, plan: Plan) -> Iterator[Finding]:
    """Does each node get the same number of GPUs?"""
    if isinstance(gpus, int) and gpus > plan.procs and gpus % plan.procs:
        yield Finding(
            "experiment.isc",
            f"gpus = {gpus} is no multiple of {plan.procs}, the GPUs per node: not all nodes get as many",
            f"Use {gpus - gpus % plan.procs} or {gpus + plan.procs - gpus % plan.procs}.",
        )


def judge_whole(verdict: Verdict) -> Iterator[Finding]:
    """Judges what only shows when all cycles are over."""
    comparison = verdict.comparison
    if not verdict.went_on and verdict.plan.cycles > 1 and verdict.is_ready:
        yield Finding(
            verdict.cycles[-1].name,
            "The training was complete before it could be interrupted, so that nothing is proven",
            "Let it train longer (-- --epochs N), or interrupt it sooner (--cycle-seconds).",
        )
    yield from judge_pace(verdict.pace)
    if comparison is not None:
        yield from judge_end(comparison.reference)
    yield from _judge_samples(verdict)
    yield from _judge_left_out(verdict.cycles)
    cycles = [*verdict.cycles, *([comparison.reference] if comparison else [])]
    yield from judge_left_behind(cycles)
    yield from judge_elsewhere(cycles, verdict.data)
    if comparison is not None and comparison.reference.end not in (HUNG, FAILED):
        is_one = comparison.is_repeatable and [*_judge_length(comparison, verdict.cycles[-1])]
        yield from is_one or _judge_state(comparison, verdict.cycles)


def _judge_samples(verdict: Verdict) -> Iterator[Finding]:
    """Was it trained on what it should have been trained on?"""
    path = samples.path_of(cycle.trace for cycle in verdict.cycles)
    comparison = verdict.comparison
    if not samples.are_known(path):
        if verdict.plan.resize:
            what = "Which samples it trains on could not be seen"
            yield Finding(TRAINING, what, "Load them with torch's DataLoader, or do without --resize.")
        return
    if (epochs := samples.same_order(path)) is not None:
        what = f"The data come in the same order in epoch {epochs[0]} and in epoch {epochs[1]}"
        hint = "Tell the sampler of each new epoch: ElasticSampler.next_epoch() does."
        yield Finding(TRAINING, what, hint, "warning")
    if comparison is not None:
        yield from _judge_same_samples(path, samples.path_of([comparison.reference.trace]))
    elif verdict.plan.resize:
        yield from _judge_all_samples(path, verdict)


def _judge_same_samples(path: dict[int, Taken], reference: dict[int, Taken]) -> Iterator[Finding]:
    step = samples.first_difference(path, reference)
    if step is None:
        return
    epoch = path[step].epoch
    again, never = samples.again_and_never(path, reference, epoch)
    yield Finding(
        TRAINING,
        f"From step {step} on it trains on other samples than without an interruption: in epoch {epoch} "
        f"{again} come again, and {never} are missing",
        "The sampler has to go on where the checkpoint was made: ElasticSampler does, as part of the state.",
    )


def _judge_all_samples(path: dict[int, Taken], verdict: Verdict) -> Iterator[Finding]:
    lengths = [cycle.trace.length for cycle in verdict.cycles if cycle.trace.length is not None]
    counts = samples.count_epochs(path, lengths, verdict.cycles[-1].end == COMPLETE)
    most = max(cycle.ranks for cycle in verdict.cycles)
    bad = [count for count in counts if count.missed or count.repeated >= most]
    if bad:
        yield Finding(
            TRAINING,
            f"In epoch {bad[0].epoch} {bad[0].missed} samples are missing, and {bad[0].repeated} come again",
            "On any number of ranks none may be missing, and fewer than there are ranks may come again: "
            "ElasticSampler counts samples, not batches.",
        )
    elif not counts:
        what = "No epoch came to its end, so that its samples could be counted"
        yield Finding(TRAINING, what, "Rehearse with longer cycles, or more of them.")


def _judge_left_out(cycles: list[Cycle]) -> Iterator[Finding]:
    """Is there something that has a state, and that a resume begins anew?"""
    for name in sorted({name for cycle in cycles for name in cycle.trace.left_out}):
        what = (
            f"The training holds {name!r}, which has a state and is not saved: a resume begins with a new one"
        )
        yield Finding(TRAINING, what, f"Add {name!r} to what state() returns, or to left_out.")


def _judge_length(comparison: Comparison, last: Cycle) -> Iterator[Finding]:
    """Does it end where it ends without an interruption?"""
    expected = comparison.reference.trace.last_step
    is_timed = any(rank.is_timed for rank in comparison.reference.trace.ranks.values())
    if expected is None or is_timed:  # steps are not known, or another one each time
        return
    ended = last.trace.last_step or max(last.saved, default=expected)  # it may have had nothing left to do
    is_longer = ended > expected and comparison.reference.end == COMPLETE
    if is_longer or (ended != expected and last.end == COMPLETE):
        how = "ended" if last.end == COMPLETE else "was still training"
        yield Finding(
            TRAINING,
            f"Interrupted it is another training: it {how} at step {ended}, and without an interruption it "
            f"ended at step {expected}",
            "What decides when it ends goes on from something that is not in the checkpoint: put it into "
            "Trainer.state(). A counter that is a plain attribute is not saved by itself.",
        )


def _judge_state(comparison: Comparison, cycles: list[Cycle]) -> Iterator[Finding]:
    """Did the interruptions leave a trace in what was saved last?"""
    if comparison.step is None:
        what = (
            "After the last interruption the interrupted and the uninterrupted run saved at no step alike: "
            "nothing could be compared"
        )
        hint = "Save at fixed steps here, and keep what was saved: -- --save-steps N --keep-checkpoints 1000"
        yield Finding(TRAINING, what, hint)
    elif comparison.differences:
        what = (
            f"Interrupted it is another training: at step {comparison.step} it is not bit for bit what it is "
            "without an interruption"
        )
        hint = " ".join(_causes(comparison.differences, cycles))
        if not comparison.is_repeatable:
            what = (
                "It is another training each time: two runs that nothing has interrupted are not bit for bit "
                f"alike at step {comparison.step}, so whether an interruption changes it cannot be told"
            )
            hint = NOT_REPEATABLE
        yield Finding(TRAINING, f"{what}. What differs: {_shown(comparison.differences)}", hint)


def _shown(differences: list[str]) -> str:
    """One of each part, and how many there are."""
    of_parts: dict[str, str] = {}
    for difference in differences:
        of_parts.setdefault(_part_of(difference), difference)
    shown = [*of_parts.values()][:SHOWN]
    more = len(differences) - len(shown)
    return f"{', '.join(shown)}{f', and {more} more' if more > 0 else ''}"


def _causes(differences: list[str], cycles: list[Cycle]) -> Iterator[str]:
    """What may have brought about these differences, and what to do about it."""
    parts = set(map(_part_of, differences))
    generators = sorted({name for cycle in cycles for name in cycle.trace.generators})
    if not parts & {*LAST}:
        yield (
            "Model and optimizer are equal, so it is the part itself that does not come back: let its "
            "load_state_dict take all that its state_dict returns, and that be the values of now. "
            "If it holds a time in seconds, keep that out of the state."
        )
        return
    if generators:
        yield (
            f"The data draw from a generator of their own ({', '.join(generators)}), which begins anew at a "
            "resume: draw from torch's, NumPy's or Python's default one. Or:"
        )
    yield (
        "Something that it goes on from is not in the checkpoint: put it into Trainer.state(). "
        "A counter or a list that is a plain attribute is not saved by itself. "
        "A file that a cycle wrote is gone in the next one. Weights that something "
        "changes between save() and the next step (through .data, say) are not either: do it before save()."
    )


def _part_of(difference: str) -> str:
    """The part of the training in which the two differ."""
    return difference.partition("=")[0].partition(".")[0]
