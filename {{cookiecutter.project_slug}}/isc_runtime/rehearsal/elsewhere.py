"""What a training uses here and a node of the ISC does not have, and what it writes that is lost there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from isc_runtime.rehearsal.cycle import Cycle
from isc_runtime.rehearsal.trace import RankTrace
from isc_runtime.submission.finding import Finding

TRAINING = "train.py"


def judge_elsewhere(cycles: Sequence[Cycle], data: Path) -> Iterator[Finding]:
    """Warnings: whether a node has what was used, or whether it matters, only a person can say.

    Args:
        cycles: in the order in which they ran.
        data: the directory with the datasets.
    """
    if needs := _told(cycles, lambda rank: rank.needs):
        what = f"It reads {_shown(needs)}, of this machine: neither the project nor a dataset has it"
        hint = "Will a node have it? Bring it in the image, or as a dataset (dataset_id_list)."
        yield Finding(TRAINING, what, hint, "warning")
    if asked := _told(cycles, lambda rank: rank.asked):
        what = f"It connects to {_shown(asked)}: nobody promises the internet on the nodes of an experiment"
        hint = "Bring what it fetches in the image, or as a dataset (dataset_id_list)."
        yield Finding(TRAINING, what, hint, "warning")
    wrote = _told(cycles, lambda rank: rank.wrote)
    datasets = (data, data.resolve())
    if to_data := [path for path in wrote if any(map(Path(path).is_relative_to, datasets))]:
        what = f"It writes {_shown(to_data)}: the datasets are read-only on the ISC"
        hint = "Write what is made again to TMPDIR, or make it part of the dataset."
        yield Finding(TRAINING, what, hint, "warning")
    if left := sorted({name for cycle in cycles for name in cycle.left}):
        what = f"It leaves {_shown(left)} in the project's folder, which the ISC throws away with each cycle"
        hint = (
            "What is to be kept goes into Trainer.state() or, if it is small, where LOSSY_ARTIFACT_PATH "
            "says. What is made again may stay."
        )
        yield Finding(TRAINING, what, hint, "warning")


def _told(cycles: Sequence[Cycle], kind: Callable[[RankTrace], dict[str, float]]) -> list[str]:
    """What ranks told, the first first."""
    told = [
        (at, name)
        for cycle in cycles
        for rank in cycle.trace.ranks.values()
        for name, at in kind(rank).items()
    ]
    return list(dict.fromkeys(name for _, name in sorted(told)))


def _shown(names: Sequence[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
