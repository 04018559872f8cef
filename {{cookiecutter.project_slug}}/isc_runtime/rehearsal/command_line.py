"""python -m isc_runtime rehearse: runs experiment.isc on this machine as the ISC would, and judges it.

Everything it makes is in one folder: logs, TensorBoard's files, verdict.json; and, while it runs, artifacts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from types import FrameType

from isc_runtime import options
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.reporting import reported
from isc_runtime.rehearsal.artifact import step_of_artifact
from isc_runtime.rehearsal.plan import CYCLE_SECONDS, Plan
from isc_runtime.rehearsal.plot import check_plot, draw
from isc_runtime.rehearsal.report import Screen, conclusion, print_json
from isc_runtime.rehearsal.run import STAND_IN, Rehearsal
from isc_runtime.rehearsal.verdict import Verdict
from isc_runtime.standard_streams import outlive_streams
from isc_runtime.submission.command.train_arguments import options_of_train
from isc_runtime.submission.contents.dockerfile import DockerIgnore


def parse_arguments(command_line: list[str]) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m isc_runtime rehearse",
        description="Runs experiment.isc on this machine as the ISC would, interruptions and all, and says "
        "whether it is ready to submit. Exit code: 0 ready, 1 not ready, others as in README.md.",
    )
    default = Plan()
    place = parser.add_argument_group("place").add_argument
    place("--nodes", type=options.positive, default=default.nodes, help="how many (default: %(default)s)")
    place(
        "--procs-per-node",
        dest="procs",
        type=options.positive,
        default=default.procs,
        help="ranks on each, on the ISC its GPUs (default: %(default)s)",
    )
    place("--data-root", type=Path, metavar="DIR", help="what takes the place of /data")
    place(
        "--in-place", action="store_true", help="run the command in the project itself, not in a copy of it"
    )
    place(
        "--from-artifact",
        type=Path,
        metavar="DIR",
        help="start from this checkpoint artifact of an earlier experiment, as with input_artifact_id_list",
    )
    place("--stand-in", action="store_true", help="do without cycling_utils: a stand-in takes its place")
    cycles = parser.add_argument_group("cycles").add_argument
    cycles("--cycles", type=_cycles, default=default.cycles, help="how many (default: %(default)s)")
    cycles(
        "--cycle-seconds",
        type=options.positive_float,
        metavar="S",
        help="interrupt each in the second half of so many seconds after its first step "
        f"(default: soon after its first checkpoint, after {CYCLE_SECONDS:g} at the latest)",
    )
    cycles(
        "--interrupt",
        choices=("kill", "term", "mixed"),
        default=default.interrupt,
        help="SIGKILL to all, SIGTERM to the command, or now this, now that (default: %(default)s)",
    )
    cycles(
        "--seed", type=options.seed, default=default.seed, help="of all that is random (default: %(default)s)"
    )
    cycles("--resize", action="store_true", help="another number of ranks in each cycle")
    cycles("--move", action="store_true", help="the artifact in another directory in each cycle")
    cycles(
        "--sync-seconds", type=options.positive_float, metavar="S", help="sync within cycles, too, so often"
    )
    limits = parser.add_argument_group("limits").add_argument
    for name, meaning in (
        ("hang", "from one step to the next"),
        ("start", "to the first step"),
        ("grace", "from SIGTERM to the end"),
    ):
        value = getattr(default, f"{name}_seconds")
        limits(
            f"--{name}-seconds",
            type=options.positive_float,
            default=value,
            metavar="S",
            help=f"the longest time {meaning} (default: {value:g})",
        )
    output = parser.add_argument_group("output").add_argument
    output("--output", type=Path, metavar="DIR", help="the folder for logs (default: rehearsals/<time>)")
    output("--json", action="store_true", help="the verdict for machines, on standard output")
    output("--plot", type=Path, metavar="FILE.png", help="draw loss over steps, the interruptions marked")
    parser.add_argument("arguments", nargs="*", help="after --: further arguments for train.py")
    return parser.parse_args(command_line)


def _cycles(text: str) -> int:
    if options.positive(text) == 1:
        raise argparse.ArgumentTypeError("1 cycle is not interrupted, which proves nothing: 2 or more")
    return int(text)


def main(command_line: list[str], root: Path) -> int:
    """Rehearses a project.

    Args:
        command_line: what comes after `rehearse`.
        root: the project.

    Returns:
        The exit code: 0 is ready, 1 is not ready; the others are in isc_runtime.errors.ExitCode.
    """
    arguments = parse_arguments(command_line)
    outlive_streams()  # the exit code is that of the rehearsal, whoever listens
    screen = Screen(to_stderr=arguments.json)
    with reported(), _signals_end_it():
        if arguments.plot is not None:
            check_plot(arguments.plot)
        for path in filter(None, (arguments.plot, arguments.output)):
            _check_kept_out(root, path)
        if arguments.from_artifact is not None:
            step_of_artifact(arguments.from_artifact)
        _check_cycling_utils(root, arguments.stand_in)
        rehearsal = Rehearsal(
            root,
            Plan(**{field.name: getattr(arguments, field.name) for field in fields(Plan)}),
            _make_folder(root, arguments.output),
            screen,
            arguments.data_root and arguments.data_root.absolute(),
            arguments.stand_in,
            _arguments_for_train(arguments, root),
            arguments.in_place,
            arguments.from_artifact and arguments.from_artifact.absolute(),
        )
        result = rehearsal.run()
        if arguments.plot is not None and result.cycles:
            _draw(arguments.plot, rehearsal, result)
    screen.show(result)
    screen.say(f"Logs: {result.folder}")
    if not result.is_ready and rehearsal.artifacts.exists():
        screen.say(f"Checkpoints, kept to be looked at: {rehearsal.artifacts}")
    if arguments.json:
        print_json(result)
    return 0 if result.is_ready else 1


def _check_cycling_utils(root: Path, stand_in: bool) -> None:
    if stand_in and not (root / STAND_IN).is_dir():
        raise IscError(
            "There is no stand-in for cycling_utils",
            root / STAND_IN,
            "Bring it back, or do without --stand-in.",
        )
    if not stand_in and importlib.util.find_spec("cycling_utils") is None:
        raise IscError(
            "The package cycling_utils, which the ISC has, is not installed",
            sys.executable,
            f"Install it: {sys.executable} -m pip install --no-deps -r requirements-cycling-utils.txt. "
            "Or rehearse with --stand-in, which leaves the same traces on the disk.",
        )


def _check_kept_out(root: Path, path: Path) -> None:
    """What comes into the project with the rehearsal would make another one of it than was rehearsed."""
    place = path.resolve()
    if place.is_relative_to(root) and not DockerIgnore(root).ignores(place.relative_to(root).as_posix()):
        raise IscError(
            "The image would take this with the project, which `submit` would then take for a changed one",
            path,
            "Name a place outside of the project, or in its folder rehearsals.",
            ExitCode.USAGE,
        )


def _make_folder(root: Path, output: Path | None) -> Path:
    folder = output if output is not None else root / "rehearsals" / f"{datetime.now():%Y%m%d-%H%M%S}"
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=output is not None)
        if any(folder.iterdir()):
            raise IscError(
                "The folder for the logs is not empty",
                folder,
                "Name another one with --output.",
                ExitCode.USAGE,
            )
    except OSError as error:
        raise IscError(
            f"The folder for the logs cannot be made ({error.strerror})",
            folder,
            "Name another one with --output.",
        ) from error
    return folder


def _arguments_for_train(arguments: argparse.Namespace, root: Path) -> list[str]:
    """Those that were given, and what a picture needs: a loss at every batch."""
    extra = list(arguments.arguments)
    if arguments.plot is not None and "--log-steps" in options_of_train(root) and "--log-steps" not in extra:
        extra += ["--log-steps", "1"]
    return extra


def _draw(file: Path, rehearsal: Rehearsal, result: Verdict) -> None:
    uninterrupted = rehearsal.logs_of("uninterrupted") if result.comparison is not None else None
    title = conclusion(replace(result, stand_in=False))  # that is no matter of the curve
    draw(file, title, result.cycles, rehearsal.logs_of("interrupted"), uninterrupted)


@contextlib.contextmanager
def _signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end the rehearsal as Ctrl-C does: with all that it has started."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
