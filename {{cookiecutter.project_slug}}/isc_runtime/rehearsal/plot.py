"""The picture of a rehearsal: loss over steps, with the interruptions marked."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.rehearsal.cycle import INTERRUPTED, Cycle

SUFFIXES = (".png", ".svg", ".pdf")
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito: told apart by everybody
INTERRUPTION = "#b3261e"


@dataclass(frozen=True)
class Curve:
    """A scalar over steps.

    Attributes:
        steps: ascending.
        values: as many.
    """

    steps: list[int]
    values: list[float]


def check_plot(file: Path) -> None:
    """Makes sure, before anything is run, that a picture can be made.

    Raises:
        IscError: matplotlib is not installed, or the file cannot be written there.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise IscError(
            "The package matplotlib, which draws the picture, is not installed",
            sys.executable,
            f"Install it: {sys.executable} -m pip install matplotlib",
        )
    if file.suffix not in SUFFIXES:
        raise IscError("No such kind of picture", file, f"Use one of {', '.join(SUFFIXES)}.", ExitCode.USAGE)
    if not file.absolute().parent.is_dir():
        raise IscError("There is no such directory", file.absolute().parent, "Make it.", ExitCode.USAGE)


def read_curves(directory: Path) -> tuple[str, list[Curve]]:
    """The loss in TensorBoard's files: a curve for each file, oldest first, and so one for each cycle.

    Returns:
        The name of the scalar, and its curves; an empty name if nothing like a loss was logged.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    curves: list[dict[str, Curve]] = []
    for file in sorted(directory.rglob("events.out.tfevents.*"), key=lambda path: path.name):
        found: dict[str, Curve] = {}
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tensor.tensor_shape.dim or value.tensor.string_val:
                    continue  # no number: the note of what a start is, say
                curve = found.setdefault(value.tag, Curve([], []))
                curve.steps.append(event.step)
                curve.values.append(float(tensor_util.make_ndarray(value.tensor)))
        curves.append(found)
    names = sorted({name for found in curves for name in found if "loss" in name.lower()})
    if not names:
        return "", []
    return names[0], [found[names[0]] for found in curves if names[0] in found]


def draw(file: Path, title: str, cycles: list[Cycle], interrupted: Path, uninterrupted: Path | None) -> None:
    """Draws the picture.

    Args:
        file: where it goes; its suffix says of which kind it is.
        title: the line above it.
        cycles: the interrupted run.
        interrupted: its lossy artifact.
        uninterrupted: that of the other run, if there was one.

    Raises:
        IscError: no loss was logged, or the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from cycler import cycler
    from matplotlib import pyplot

    name, curves = read_curves(interrupted)
    if not curves:
        raise IscError(
            "There is no picture, for no loss was logged",
            interrupted,
            "Log it more often (--log-steps), under a name with 'loss' in it.",
            ExitCode.FAILED,
        )
    with pyplot.style.context({"axes.prop_cycle": cycler(color=COLORS)}):
        figure, axes = pyplot.subplots(figsize=(9, 4), dpi=110, layout="constrained")
        if uninterrupted is not None:
            _, whole = read_curves(uninterrupted)
            for curve in whole:
                axes.plot(
                    curve.steps, curve.values, color="0.75", linewidth=5, label="uninterrupted", zorder=1
                )
        for number, curve in enumerate(curves, start=1):
            axes.plot(curve.steps, curve.values, linewidth=1.4, label=f"cycle {number}", zorder=2)
        for cycle in cycles:
            _mark(axes, cycle)
        axes.set(xlabel="step", ylabel=name, title="\n".join(textwrap.wrap(title, 104)))
        axes.set_yscale("log" if min(value for c in curves for value in c.values) > 0 else "linear")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")
        try:
            figure.savefig(file)
        except OSError as error:
            raise IscError("The picture cannot be written", file, str(error.strerror)) from error
        finally:
            pyplot.close(figure)


def _mark(axes: Any, cycle: Cycle) -> None:
    """A line where the cycle was interrupted, and from where the next one went on."""
    last, shipped = cycle.trace.last_step, cycle.synced.step
    if cycle.end not in INTERRUPTED or last is None:
        return
    axes.axvline(last, color=INTERRUPTION, linewidth=1, linestyle="--", zorder=0)
    lost = f", {last - shipped} lost" if shipped is not None and last > shipped else ""
    axes.annotate(
        f"{cycle.end} at {last}{lost}",
        (last, 0.02),
        xycoords=("data", "axes fraction"),
        rotation=90,
        color=INTERRUPTION,
        fontsize=8,
        ha="right",
        va="bottom",
    )
    if shipped is not None and last > shipped:
        axes.axvspan(shipped, last, color=INTERRUPTION, alpha=0.08, linewidth=0, zorder=0)
