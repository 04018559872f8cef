"""From the words of --tracker to trackers; nothing is imported that is not chosen."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from isc_runtime.errors import IscError
from isc_runtime.tracking.tracker import MEMBERS, Tracker

PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow-skinny", "mlflow")}
DEFAULT = ("tensorboard",)
NONE = "none"
CLASSES = {
    "tensorboard": "isc_runtime.tracking.tensorboard_events:TensorBoardEvents",
    "wandb": "isc_runtime.tracking.weights_and_biases:WeightsAndBiases",
    "mlflow": "isc_runtime.tracking.mlflow_files:MlflowFiles",
}


def add_tracker_option(parser: argparse.ArgumentParser) -> None:
    """Adds --tracker."""
    parser.add_argument_group("curves").add_argument(
        "--tracker",
        nargs="+",
        type=_word,
        default=list(DEFAULT),
        metavar="NAME",
        help=f"where curves go: {', '.join(PACKAGES)} (wandb offline, mlflow in files), {NONE}, or "
        "module:Class, a class of yours (default: %(default)s)",
    )


def _word(text: str) -> str:
    if text not in (*PACKAGES, NONE) and not all(text.partition(":")):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PACKAGES)}, module:Class, {NONE}")
    return text


def check_trackers(words: Sequence[str]) -> None:
    """Makes sure that each tracker can be had here. All ranks come to the same answer.

    Args:
        words: of --tracker.

    Raises:
        IscError: one is not installed.
    """
    for word in words:
        package = PACKAGES.get(word, ("",))[0]
        if package and not _is_installed(word):
            raise IscError(
                f"--tracker {word} needs the package {package}, which is not installed",
                sys.executable,
                f"Install it: make setup EXTRAS={word}, or uv sync --extra {word}. For the image put "
                f"{package} into dependencies in pyproject.toml, and run: make lock",
            )


def _is_installed(module: str) -> bool:
    """A folder of its name is none, as W&B's own folder `wandb` is."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def make_trackers(words: Sequence[str], directory: Path) -> list[Tracker]:
    """The trackers that are asked for, on the master.

    Args:
        words: of --tracker: names in `CLASSES`, or `module:Class` for a class of one's own.
        directory: for logs.

    Raises:
        IscError: there is no such class, or it is no tracker.
    """
    return [_make(CLASSES.get(word, word), directory) for word in dict.fromkeys(words) if word != NONE]


def _make(place: str, directory: Path) -> Tracker:
    module, _, name = place.partition(":")
    try:
        tracker: Tracker = getattr(importlib.import_module(module), name)(directory)
    except (Exception, SystemExit) as error:  # whatever a module does when imported, and a class when made
        hint = "It is written module:Class, and gets one argument, the directory for logs."
        what = f"The tracker cannot be made ({type(error).__name__}: {error})"
        raise IscError(what, f"--tracker {place}", hint) from error
    if missing := [member for member in MEMBERS if not hasattr(tracker, member)]:
        hint = "It must have all that Tracker in isc_runtime/tracking/tracker.py has."
        raise IscError(f"The tracker has no {', '.join(missing)}", f"--tracker {place}", hint)
    return tracker
