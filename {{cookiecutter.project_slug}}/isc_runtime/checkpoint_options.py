"""The options of `train.py` that say how a Checkpointer saves."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.option_values import Options, not_negative, positive, positive_float

AUTO = 0  # the value of `save_steps` that stands for "auto"
SAVES_BETWEEN_INTERRUPTIONS = 3  # at least, if nothing else is said


@dataclass(frozen=True)
class CheckpointOptions(Options):
    """How a Checkpointer saves.

    Attributes:
        save_steps: batches between two saves; AUTO finds it from what a save costs.
        save_seconds: the longest time between two saves; None is a third of `mtbf_seconds`.
        mtbf_seconds: assumed mean time between failures or interruptions.
        anchor_saves: every so-manieth save is kept for good, and the ISC ships it too; 0 is never.
        keep_checkpoints: how many checkpoints are kept, besides the best and the anchors; 0 is all.
        max_failed_saves: so many failed saves in a row end the run.
        save_timeout: seconds after which a save that does not end ends the run.
        sync_save: training waits until a checkpoint is written.
        fresh: existing checkpoints are moved aside.
        max_seconds: of training, over all resumes, after which it is to end.
        keep_best: how many of those are kept that were the best when they were saved.
        max_fruitless_starts: so many starts in a row that save nothing are an error; 0 is never.
        init_from: weights that a training begins with, if there is no checkpoint to go on from.
        init_partly: of these only what the model has, too, in the same shape.
    """

    save_steps: int = AUTO
    save_seconds: float | None = None
    mtbf_seconds: float = 3600.0
    anchor_saves: int = 0
    keep_checkpoints: int = 3
    max_failed_saves: int = 3
    save_timeout: float = 1800.0
    sync_save: bool = False
    fresh: bool = False
    max_seconds: float = math.inf
    keep_best: int = 1
    max_fruitless_starts: int = 5
    init_from: Path | None = None
    init_partly: bool = False

    @property
    def most_seconds(self) -> float:
        """The longest time between two saves."""
        return self.save_seconds or self.mtbf_seconds / SAVES_BETWEEN_INTERRUPTIONS


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Adds a group with what `CheckpointOptions` holds."""
    default = CheckpointOptions()
    group = parser.add_argument_group(
        "checkpoints", "A run goes on from its newest good checkpoint by itself; there is no option for that."
    )
    group.add_argument(
        "--save-steps",
        "--save-every",
        type=_steps,
        default="auto",
        metavar="N|auto",
        help="save every N batches, or as often as pays ('auto', from what a save costs and --mtbf-seconds); "
        "the last batch of an epoch is always saved (default: %(default)s)",
    )
    group.add_argument(
        "--save-seconds",
        type=positive_float,
        metavar="S",
        help="save when the last save was so long ago, however slow the batches are "
        "(default: a third of --mtbf-seconds)",
    )
    group.add_argument(
        "--mtbf-seconds",
        type=positive_float,
        default=default.mtbf_seconds,
        metavar="S",
        help="assumed mean time between interruptions; 90 in cycle mode of the ISC (default: %(default)s)",
    )
    group.add_argument(
        "--anchor-saves",
        type=not_negative,
        default=default.anchor_saves,
        metavar="N",
        help="keep every Nth save for good; the ISC ships these, too (default: never)",
    )
    group.add_argument(
        "--keep-checkpoints",
        type=not_negative,
        default=default.keep_checkpoints,
        metavar="N",
        help="keep the newest N, besides the best and the anchors; 0 keeps all (default: %(default)s)",
    )
    group.add_argument(
        "--keep-best",
        type=positive,
        default=default.keep_best,
        metavar="N",
        help="of the checkpoints that were the best so far keep the newest N (default: %(default)s)",
    )
    group.add_argument(
        "--max-failed-saves",
        type=positive,
        default=default.max_failed_saves,
        metavar="N",
        help="stop after so many failed saves in a row (default: %(default)s)",
    )
    group.add_argument(
        "--max-fruitless-starts",
        type=not_negative,
        default=default.max_fruitless_starts,
        metavar="N",
        help="the Nth start in a row from one position is an error (exit code 10); 0 is never "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--save-timeout",
        type=positive_float,
        default=default.save_timeout,
        metavar="S",
        help="stop when a save takes longer than this (default: %(default)s)",
    )
    group.add_argument(
        "--sync-save", action="store_true", help="let the training wait until a checkpoint is written"
    )
    group.add_argument(
        "--init-from",
        type=Path,
        metavar="FILE",
        help="begin with these weights where there is no checkpoint to go on from: a checkpoint of this "
        "project or of another program, or safetensors",
    )
    group.add_argument(
        "--init-partly",
        action="store_true",
        help="of --init-from take what fits and list the rest; without it all names and shapes must fit",
    )
    group.add_argument(
        "--fresh",
        action="store_true",
        help="start over; checkpoints that exist are moved to set-aside/, not deleted (the ISC is not "
        "sure to keep that); ranks that torchrun restarts go on from what they have saved since",
    )


def _steps(text: str) -> int:
    return AUTO if text == "auto" else positive(text)
