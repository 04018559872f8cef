"""The command of a launch file, as it can run on this machine."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.submission.command.shell import joined

DATA = Path("/data")  # where the ISC mounts datasets
HOME = "/root/"  # of the user of a container of the ISC
ENVIRONMENT = Path("/opt/venv")  # where its images have the virtual environment

_SCRIPT = re.compile(r"(?<![\w.-])(launch\.sh|train\.py)(?![\w.-])['\"]?")
_WORD = r"""(?:'[^']*'|"[^"]*"|[^\s'"&|;])+"""
_DATASET = re.compile(rf"\s--dataset-id(?:=|\s+)(?P<id>{_WORD})")
_TO_THE_NEXT_COMMAND = re.compile(rf"(?:{_WORD}|\s)*")


@dataclass(frozen=True)
class LocalCommand:
    """A command that runs here.

    Attributes:
        text: for bash.
        notes: in what it differs from the one in the launch file, a sentence each.
    """

    text: str
    notes: tuple[str, ...]


def localize(
    command: str,
    homes: Sequence[str],
    root: Path,
    data_root: Path | None = None,
    options: Collection[str] = (),
    extra: Sequence[str] = (),
) -> LocalCommand:
    """Maps a command of the ISC to this machine.

    Args:
        command: as the launch file has it.
        homes: the directories that the project may be in on the ISC.
        root: the directory that it is in here.
        data_root: what takes the place of /data. None is /data itself; a dataset that is not there is left
            out of the arguments, so that train.py takes its default data.
        options: those that train.py has.
        extra: arguments to add for train.py.

    Raises:
        IscError: there are arguments to add, and nothing to add them to.
    """
    notes = [f"{homes[0]} is {root}"]
    text = joined(command)
    for home in homes:
        text = _replace_path(text, home, root)
        if home.startswith(HOME):  # of root's there; here it is somebody else's
            text = _replace_home(text, home.removeprefix(HOME), root)
    if (
        not ENVIRONMENT.exists()
        and (mapped := _replace_path(text, str(ENVIRONMENT), Path(sys.prefix))) != text
    ):
        text = mapped
        notes.append(f"{ENVIRONMENT} is {sys.prefix}")
    if data_root is not None and "--data-root" in options and "--data-root" not in text:
        text = _replace_path(text, str(DATA), data_root)
        extra = ["--data-root", str(data_root), *extra] if _DATASET.search(text) else extra
        notes.append(f"{DATA} is {data_root}")
    elif data_root is not None:
        text = _replace_path(text, str(DATA), data_root)
        notes.append(f"{DATA} is {data_root}")
    elif (match := _DATASET.search(text)) and not (DATA / match["id"].strip("'\"")).is_dir():
        text = text[: match.start()] + text[match.end() :]
        notes.append(
            f"--dataset-id {match['id']} is left out, for it is not in {DATA}: the default data of data.py "
            "take its place (--data-root DIR rehearses with the real ones)"
        )
    if extra:
        text = _add_arguments(text, extra)
        notes.append(f"added for train.py: {shlex.join(extra)}")
    return LocalCommand(text, tuple(notes))


def _replace_path(text: str, path: str, by: Path) -> str:
    """Replaces a directory by another one, within quotes and outside of them."""
    pattern = re.compile(rf"""(?<![\w./-]){re.escape(path)}(?=[/\s'"&|;]|$)""")
    parts = re.split(r"""('[^']*'|"[^"]*")""", text)  # the odd ones are quoted
    for number, part in enumerate(parts):
        here = str(by) if number % 2 else shlex.quote(str(by))
        parts[number] = pattern.sub(lambda _, here=here: here, part)
    return "".join(parts)


def _add_arguments(text: str, arguments: Sequence[str]) -> str:
    scripts = list(_SCRIPT.finditer(text))
    if not scripts:
        raise IscError(
            "The command starts neither launch.sh nor train.py, so no arguments can be added",
            text,
            "Rehearse without --plot, --data-root and further arguments.",
            ExitCode.USAGE,
        )
    end = scripts[-1].end()
    rest = _TO_THE_NEXT_COMMAND.match(text, end)
    end = rest.end() if rest else end
    head = text[:end]
    return f"{head.rstrip()} {shlex.join(arguments)}{' ' if head[-1:] == ' ' else ''}{text[end:]}"


def _replace_home(text: str, project: str, by: Path) -> str:
    """Replaces the project in the home directory, where a shell would see that: not in all quotes."""
    pattern = rf"""(?:\$HOME|\$\{{HOME\}}|~)/{re.escape(project)}(?=[/\s'"&|;]|$)"""
    parts = re.split(r"""('[^']*'|"[^"]*")""", text)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(rf"(?<![\w./~-]){pattern}", lambda _: shlex.quote(str(by)), part)
        elif part.startswith('"'):
            parts[number] = re.sub(pattern.replace("|~", ""), lambda _: str(by), part)
    return "".join(parts)
