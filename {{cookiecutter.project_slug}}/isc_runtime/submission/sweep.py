"""A launch file for each point of a sweep: `python -m isc_runtime sweep experiment.isc --set seed=0,1`."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.submission.command.command_form import PREPARATIONS
from isc_runtime.submission.command.shell import comment_at, joined, split
from isc_runtime.submission.launch_file import check_launch_file
from isc_runtime.submission.project import homes
from isc_runtime.text_files import read_text
from isc_runtime.toml import load_toml

Point = tuple[tuple[str, str], ...]  # options of train.py, and their values
MOST = 100  # so many experiments at once are a slip of the keyboard
_TRAINING = re.compile(r"(?<![^\s/])(?:launch\.sh|train\.py|(?<=-m )train)(?=\s|$)")
# Words up to an operator, a redirection or a comment.
_ARGUMENTS = re.compile(
    r"""(?:\s+(?!\#|\d*[<>])(?:'[^']*'|"(?:[^"\\]|\\.)*"|\\.|\$\([^()]*\)|[^\s&|;()<>'"\\])+)*"""
)


def sweep(launch_file: Path, settings: Sequence[str], root: Path) -> int:
    """Writes the files beside `launch_file`, checks each, and prints what submits it.

    Args:
        launch_file: what all points have in common.
        settings: `option=value,value`, of train.py; all combinations are made.
        root: the project.

    Returns:
        The exit code: 1 if one would fail, and then none is kept.

    Raises:
        IscError: what was given makes no sweep.
    """
    try:
        text = read_text(launch_file)
        values = load_toml(text)
        name, command = values["experiment_name"], values["command"]
        if not (isinstance(name, str) and isinstance(command, str)):
            raise ValueError("experiment_name and command must be strings")
    except (OSError, ValueError, LookupError, ImportError) as error:
        hint = "Name a launch file with an experiment_name and a command."
        raise IscError(f"It cannot be read ({error})", launch_file, hint, ExitCode.USAGE) from error
    made: dict[Path, bytes] = {}
    for point in points(settings):
        file = launch_file.with_name(f"{launch_file.stem}-{'-'.join(map(_safe, map('-'.join, point)))}.isc")
        words = "".join(f" --{option} {shlex.quote(value)}" for option, value in point)
        called = f"{name}, {', '.join(map(' '.join, point))}"
        if file in made:
            hint = "Give them values that differ in a letter or a number."
            raise IscError("Two points would have the same file", file, hint, ExitCode.USAGE)
        with_options = _with_options(command, words, launch_file)
        made[file] = _with(_with(text, "experiment_name", called), "command", with_options).encode()
    with contextlib.ExitStack() as undone:
        _write(made, undone)
        findings = [finding for file in made for finding in check_launch_file(file, root, homes(root))]
        errors = [finding for finding in findings if finding.severity == "error"]
        if not errors:
            undone.pop_all()
    for finding in dict.fromkeys(findings):
        print(f"{finding.severity.upper()}: {finding}")
    if errors:
        print(f"None is written: {len(errors)} error{'s' * (len(errors) > 1)}.")
        return 1
    for file in made:
        print(f"isc train {shlex.quote(str(file))}")
    return 0


def _write(made: dict[Path, bytes], undone: contextlib.ExitStack) -> None:
    """Writes those that are not there already; `undone` deletes them again. Raises IscError."""
    try:
        for file, content in made.items():
            if file.exists() and file.read_bytes() != content:
                hint = "Delete it first."
                raise IscError("It is there already, and is another one", file, hint, ExitCode.USAGE)
        for file, content in made.items():
            if not file.exists():
                undone.callback(file.unlink, missing_ok=True)  # first: Ctrl-C may come in the middle
                file.write_bytes(content)
    except OSError as error:
        hint = "Make its folder writable, or make room there."
        raise IscError(f"It cannot be written ({error.strerror})", file, hint) from None


def points(settings: Sequence[str]) -> list[Point]:
    """All combinations of `option=value,value`. Raises IscError."""
    axes: dict[str, list[tuple[str, str]]] = {}
    for setting in settings:
        option, _, values = setting.partition("=")
        option = option.lstrip("-").replace("_", "-")
        found = list(dict.fromkeys(value.strip() for value in values.split(",")))
        if not re.fullmatch(r"[a-z0-9-]+", option) or option in axes or not all(found):
            hint = "Each option once: --set learning-rate=1e-3,3e-3"
            raise IscError(f"{setting!r} names no option with its values", "", hint, ExitCode.USAGE)
        axes[option] = [(option, value) for value in found]
    combined = list(itertools.islice(itertools.product(*axes.values()), MOST + 1))
    if not axes or len(combined) > MOST:
        hint = f"A sweep has one --set at least, and {MOST} points at most."
        raise IscError("That makes no sweep", " ".join(settings), hint, ExitCode.USAGE)
    return combined


def _with(text: str, key: str, value: str) -> str:
    """A launch file with another value of a key, whose old one stands on one line."""
    line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
    new, count = re.subn(rf"^{key}\s*=.*$", lambda _: line, text, flags=re.MULTILINE)
    try:
        is_changed = count == 1 and load_toml(new).get(key) == value
    except ValueError:  # the rest of the old value is still there
        is_changed = False
    if not is_changed:
        hint = "Write its value on that line, in quotes."
        raise IscError(f"The value of {key} is not on one line", "", hint, ExitCode.USAGE)
    return new


def _with_options(command: str, options: str, launch_file: Path) -> str:
    """A command whose training has these options after its own. Raises IscError: it cannot be given any."""
    starts = [match.end() for match in _TRAINING.finditer(command)]
    # Where none is seen, the command may be the training, and nothing else.
    ends = [match.end() for start in starts if (match := _ARGUMENTS.match(command, start))]
    new = [command[:end] + options + command[end:] for end in ends or [len(command.rstrip())]]
    found = [text for text in new if _trains_with(text, tuple(shlex.split(options)), is_alone=not starts)]
    if len(found) == 1:
        return found[0]
    raise IscError(
        "The command has no one place for options of the training",
        launch_file,
        "Write it so that launch.sh stands in it once, and not within quotes: bash .../launch.sh --epochs 3",
        ExitCode.USAGE,
    )


def _trains_with(command: str, options: tuple[str, ...], is_alone: bool) -> bool:
    """Whether one program of a command, which may be a training, ends with these options."""
    line = joined(command)
    try:
        commands = [simple for simple in split(line[: comment_at(line)]) if simple.words]
    except ValueError:  # a quote is open
        return False
    has_them = [simple for simple in commands if simple.words[-len(options) :] == options]
    is_one = len(has_them) == 1 and (len(commands) == 1 or not is_alone)
    return is_one and has_them[0].shell_text is None and has_them[0].program not in PREPARATIONS


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text)
