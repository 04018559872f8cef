"""The options of a training that say how much it tells of itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from isc_runtime.option_values import Options, not_negative, positive, positive_float


@dataclass(frozen=True)
class LogOptions(Options):
    """What a training tells of its speed.

    Attributes:
        profile_steps: so many batches of each start are looked at by torch.profiler.
        flops: what a device can do at best, in floating point operations a second; None says no MFU.
        batch_flops: what a batch takes of these on a rank; None has it counted.
        compile: whether blocks are compiled: then it cannot be counted.
    """

    profile_steps: int = 0
    flops: float | None = None
    batch_flops: float | None = None
    compile: bool = False


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Adds a group with how often there is a line in the log, and what `LogOptions` holds."""
    group = parser.add_argument_group("log")
    group.add_argument("--log-steps", type=positive, default=20, help="batches between two log lines")
    group.add_argument(
        "--profile-steps",
        type=not_negative,
        default=0,
        metavar="N",
        help="let torch.profiler look at N batches of each start, from the fourth one on, on rank 0; the "
        "trace goes beside TensorBoard's files",
    )
    group.add_argument(
        "--flops",
        type=positive_float,
        metavar="PEAK",
        help="what a device does at best, in floating point operations a second (989e12: an H100 in bf16); "
        "then the log has the share of it that the training takes, as mfu",
    )
    group.add_argument(
        "--batch-flops",
        type=positive_float,
        metavar="N",
        help="what a batch takes on a rank, for mfu. Without it the first batch of each start is counted, "
        "recomputed activations too; with --compile it cannot be: take the number from a log without it",
    )
