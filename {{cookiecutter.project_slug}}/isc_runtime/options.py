"""The options of `train.py` that belong to isc_runtime, in groups for `--help`."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime import config
from isc_runtime.option_values import not_negative as not_negative
from isc_runtime.option_values import not_negative_float as not_negative_float
from isc_runtime.option_values import positive as positive
from isc_runtime.option_values import positive_float as positive_float
from isc_runtime.option_values import seed as seed
from isc_runtime.tracking.chosen import add_tracker_option

if TYPE_CHECKING:
    from typing_extensions import Self

AUTO = 0  # the value of `save_steps` that stands for "auto"
FIRST_TIMEOUT = 600.0  # seconds
SAVES_BETWEEN_INTERRUPTIONS = 3  # at least, if nothing else is said
DEVICES = ("auto", "cuda", "mps", "cpu")
LOCAL = "train as on a laptop, in ./checkpoints, though variables of the ISC's artifacts are set"
GIVEN = "given"  # the attribute that names the options that were given
_ABSENT = object()


def make_parser(manual: str | None) -> argparse.ArgumentParser:
    """A parser for a program, whose manual begins with a line that says what it does.

    It takes no abbreviations: an option that is new tomorrow would change what they mean.
    """
    return argparse.ArgumentParser(
        description=(manual or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def parse(parser: argparse.ArgumentParser, command_line: list[str] | None = None) -> argparse.Namespace:
    """Parses a command line, and notes in `given`, a frozenset, which options it or a config file gives.

    So that what is asked for explicitly can be told from what is a default. A parser with --config reads that
    file, or the one beside the program that is called as it is: train.toml.
    """
    words = config.expanded(parser, sys.argv[1:] if command_line is None else command_line)
    arguments = parser.parse_args(words)
    without_defaults = argparse.Namespace(**dict.fromkeys(vars(arguments), _ABSENT))
    found = vars(parser.parse_args(words, without_defaults))
    given = frozenset(name for name, value in found.items() if value is not _ABSENT)
    auto = {"save_steps": "auto"} if getattr(arguments, "save_steps", None) == AUTO else {}
    setattr(arguments, GIVEN, given - config.take_out(parser, arguments, auto))
    return arguments


class Options:
    """Options that belong together: a dataclass whose fields are called as in the parsed arguments."""

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """Picks them from the parsed arguments; what was not given there is as by default."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # it is a dataclass
        given = {name: getattr(arguments, name, None) for name in names}
        return cls(**{name: value for name, value in given.items() if value is not None})


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


@dataclass(frozen=True)
class ParallelOptions(Options):
    """How a model is spread over the ranks.

    Attributes:
        parallelism: "ddp", every rank holds all of the model, or "fsdp", every rank holds a shard of it.
        checkpoint_activations: blocks are computed again in the backward pass, to save memory.
        compile: blocks are compiled by torch.compile.
        find_unused_parameters: with "ddp", some get no gradient in some batches.
    """

    parallelism: str = "ddp"
    checkpoint_activations: bool = False
    compile: bool = False
    find_unused_parameters: bool = False


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Adds all that isc_runtime understands: how a model is spread, how it is saved, and limits."""
    add_parallel_options(parser)
    add_checkpoint_options(parser)
    add_distributed_options(parser)
    add_device_options(parser)
    add_tracker_option(parser)
    config.add_config_options(parser)
    parser.add_argument("--local", action="store_true", help=LOCAL)


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
        "sure to keep that); where torchrun restarts the ranks, the first attempt alone does this",
    )


def add_parallel_options(parser: argparse.ArgumentParser) -> None:
    """Adds a group with what `ParallelOptions` holds."""
    group = parser.add_argument_group("model on many GPUs")
    group.add_argument(
        "--parallelism",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="ddp: every rank holds the whole model; fsdp: a shard of it, for models that outgrow a GPU. "
        "A run goes on from a checkpoint of either (default: %(default)s)",
    )
    group.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="keep less memory for the backward pass, and compute it again: slower",
    )
    group.add_argument("--compile", action="store_true", help="compile the model; needs a C++ compiler")
    group.add_argument(
        "--find-unused-parameters",
        action="store_true",
        help="with ddp, look in each batch which parameters get no gradient: needed where that changes from "
        "batch to batch",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds a group with where and how exactly a rank computes."""
    group = parser.add_argument_group("device")
    group.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where to compute; auto: on the ISC a GPU for each rank, on a laptop what is there "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the same inputs give the same bits, as a resume that is exact needs; without it a GPU may "
        "be faster (default: %(default)s)",
    )


def add_distributed_options(parser: argparse.ArgumentParser) -> None:
    """Adds a group with the limits that keep ranks from waiting for ever."""
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--first-timeout",
        type=positive_float,
        default=FIRST_TIMEOUT,
        metavar="S",
        help="seconds until the first batch must be done (default: %(default)s)",
    )
    group.add_argument(
        "--timeout",
        type=positive_float,
        default=120.0,
        metavar="S",
        help="seconds from one batch to the next until the run is taken for hung (default: %(default)s)",
    )


def _steps(text: str) -> int:
    return AUTO if text == "auto" else positive(text)
