"""The command of a launch file, as it can run on this machine."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.submission.command.shell import joined
from isc_runtime.submission.command.train_arguments import options_of_train
from isc_runtime.submission.project import homes

DATA = Path("/data")  # where the ISC mounts datasets
HOME = "/root/"  # of the user of a container of the ISC
ENVIRONMENT = Path("/opt/venv")  # where its images have the virtual environment

_SCRIPT = re.compile(r"(?<![\w.-])(launch\.sh|train\.py)(?![\w.-])['\"]?")
_WORD = r"""(?:'[^']*'|"[^"]*"|[^\s'"&|;])+"""
_DATASET = re.compile(rf"\s--dataset-id(?:=|\s+)(?P<id>{_WORD})")
_ACTIVATES = re.compile(rf"""(?<!\S)(?:source|\.)\s+(['"]?){ENVIRONMENT}/bin/activate\1(?=$|[\s;&|)])""")
_END = r"(?![\w.*?$-])"  # of a path's last name
_END_OF_HOME = r"/?(?![\w./*?$+-])"  # of the home directory itself, nothing in it
_BARE_CD = re.compile(r"((?:^|[;&|({])\s*)cd\s*(?=$|[;&|)])")  # it goes home
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


def localizer(
    command: str, root: Path, data_root: Path | None, extra: Sequence[str], in_place: bool
) -> Callable[[Path], LocalCommand]:
    """Maps the command of a project's launch file to where the project is on a node.

    Args:
        command: as the launch file has it.
        root: the project.
        data_root: what takes the place of /data, if anything does.
        extra: arguments to add for train.py.
        in_place: whether it runs in the project itself, and not in a copy with a folder of its own.
    """
    places, options = homes(root), options_of_train(root)

    def localized(project: Path) -> LocalCommand:
        home = None if in_place else project.parent
        return localize(command, places, project, data_root, options, extra, home)

    return localized


def localize(
    command: str,
    homes: Sequence[str],
    root: Path,
    data_root: Path | None = None,
    options: Collection[str] = (),
    extra: Sequence[str] = (),
    home: Path | None = None,
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
        home: the directory with nothing but the project, under each of its names. None: there is no such.

    Raises:
        IscError: there are arguments to add, and nothing to add them to.
    """
    notes = [f"{homes[0]} is {root}"]
    text = joined(command)
    for place in homes:
        text = _replace_path(text, re.escape(place) + _END, root)
        if place.startswith(HOME):  # of root's there; here it is somebody else's
            text = _replace_home(text, f"/{re.escape(place.removeprefix(HOME))}{_END}", root)
    if home is not None:  # `cd /root && bash a-project/launch.sh`
        text = _replace_path(text, re.escape(HOME.rstrip("/")) + _END_OF_HOME, home)
        text = _replace_home(text, _END_OF_HOME, home)
        text = _BARE_CD.sub(lambda match: f"{match[1]}cd {shlex.quote(str(home))} ", text)
    if not ENVIRONMENT.exists():
        text, note = map_environment(text, Path(sys.prefix))
        notes += note
    if data_root is not None:
        # Whether it takes a dataset at all may stand in a config file; without one this changes nothing.
        is_told = _SCRIPT.search(text) or _DATASET.search(text)
        if is_told and "--data-root" in options and "--data-root" not in f"{text} {shlex.join(extra)}":
            extra = ["--data-root", str(data_root), *extra]
        text = _replace_path(text, f"{DATA}{_END}", data_root)
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


def map_environment(text: str, prefix: Path) -> tuple[str, list[str]]:
    """Puts this Python's environment in the place of the image's.

    Args:
        text: a command.
        prefix: of this Python, which may be conda's or the system's, and have nothing to activate.

    Returns:
        The command, and a note if it is another one.
    """
    notes = []
    activate = prefix / "bin" / "activate"
    if not activate.is_file() and (without := _ACTIVATES.sub(":", text)) != text:
        text = without
        notes.append(f"{ENVIRONMENT} is {prefix}, whose programs are in PATH: there is no {activate}")
    if (mapped := _replace_path(text, f"{ENVIRONMENT}{_END}", prefix)) != text:
        text, notes = mapped, notes or [f"{ENVIRONMENT} is {prefix}"]
    return text, notes


def _replace_path(text: str, path: str, by: Path) -> str:
    """Replaces a directory (a pattern) by another one, within quotes and outside of them."""
    pattern = re.compile(rf"(?<![\w./-]){path}")
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


def _replace_home(text: str, path: str, by: Path) -> str:
    """Replaces ~ and what follows it (a pattern), where a shell would see that: not in all quotes."""
    quoted = rf"(?:\$HOME|\$\{{HOME\}}){path}"
    pattern = rf"(?:{quoted}|(?<!\s=)~{path})"  # =~ compares
    parts = re.split(r"""('[^']*'|"[^"]*")""", text)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(rf"(?<![\w./~-]){pattern}", lambda _: shlex.quote(str(by)), part)
        elif part.startswith('"'):
            parts[number] = re.sub(quoted, lambda _: str(by), part)
    return "".join(parts)
