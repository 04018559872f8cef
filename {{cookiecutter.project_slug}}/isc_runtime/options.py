"""The options of `train.py` that belong to isc_runtime, in groups for `--help`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from isc_runtime import config
from isc_runtime.checkpoint_options import AUTO as AUTO
from isc_runtime.checkpoint_options import CheckpointOptions as CheckpointOptions
from isc_runtime.checkpoint_options import add_checkpoint_options as add_checkpoint_options
from isc_runtime.log_options import LogOptions as LogOptions
from isc_runtime.log_options import add_log_options
from isc_runtime.option_values import Options as Options
from isc_runtime.option_values import not_negative as not_negative
from isc_runtime.option_values import not_negative_float as not_negative_float
from isc_runtime.option_values import positive as positive
from isc_runtime.option_values import positive_float as positive_float
from isc_runtime.option_values import seed as seed
from isc_runtime.tracking.chosen import add_tracker_option

FIRST_TIMEOUT = 600.0  # seconds
DEVICES = ("auto", "cuda", "mps", "cpu")
LOCAL = "train as on a laptop, in ./checkpoints, though variables of the ISC's artifacts are set"
GIVEN = "given"  # the attribute that names the options that were given
_ABSENT = object()


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one, and the help has no words of its own for it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_said = action.default is None or "(default" in (action.help or "")
        return action.help if is_said else super()._get_help_string(action)


def make_parser(manual: str | None) -> argparse.ArgumentParser:
    """A parser for a program, whose manual begins with a line that says what it does.

    It takes no abbreviations: an option that is new tomorrow would change what they mean.
    """
    return argparse.ArgumentParser(
        description=(manual or "").partition("\n")[0],
        formatter_class=_Formatter,
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


@dataclass(frozen=True)
class ParallelOptions(Options):
    """How a model is spread over the ranks.

    Attributes:
        parallelism: "ddp", every rank holds all of the model, or "fsdp", every rank holds a shard of it.
        checkpoint_activations: blocks are computed again in the backward pass, to save memory.
        compile: blocks are compiled by torch.compile.
        find_unused_parameters: with "ddp", some get no gradient in some batches.
        shard_size: with "fsdp", so many ranks together hold the whole model; None: all ranks do.
    """

    parallelism: str = "ddp"
    checkpoint_activations: bool = False
    compile: bool = False
    find_unused_parameters: bool = False
    shard_size: int | None = None


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Adds all that isc_runtime understands: how a model is spread and saved, what is said, and limits."""
    add_parallel_options(parser)
    add_checkpoint_options(parser)
    add_distributed_options(parser)
    add_device_options(parser)
    add_log_options(parser)
    add_tracker_option(parser)
    config.add_config_options(parser)
    parser.add_argument("--local", action="store_true", help=LOCAL)


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
        "--shard-size",
        type=positive,
        metavar="N",
        help="with fsdp, so many ranks together hold the model, the GPUs of a node say, and others hold it "
        "again, so that less goes from node to node (default: all ranks hold it together)",
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
