"""python -m isc_runtime explain: which logs there are, and how it ends."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.explanation.answer import Explanation, Node
from isc_runtime.explanation.attempt import Attempt
from isc_runtime.explanation.diagnosis import explain
from isc_runtime.explanation.reading import Reader
from isc_runtime.explanation.report import as_json, as_text

SUFFIXES = {".txt", ".log", ".out", ".err"}
PACKED = ".gz"
MOST_LOGS = 2000
NO_LOGS = ("stacks_of_rank_", "requirements", "constraints")  # a rehearsal's, and what pip reads
NODE = re.compile(r"(?:rank|node)[-_ ]?(\d+)", re.IGNORECASE)  # the ISC's rank_N.txt is of node N
HINT = "Name the logs of an experiment, or the folder that holds them: rank_0.txt, rank_1.txt, ..."


def run(paths: list[Path], json: bool) -> int:
    """Prints what the logs say.

    Args:
        paths: logs, and folders of logs.
        json: for machines.

    Returns:
        0 if the last attempt completed, was asked to stop, or was interrupted without an error; 1 if it
        failed, or if nothing in the logs is known.

    Raises:
        IscError: a log cannot be read, or there is none.
    """
    found = read(paths)
    print(as_json(found) if json else as_text(found))
    return ExitCode.FAILED if found.outcome in ("failed", "unknown") else ExitCode.COMPLETED


def read(paths: list[Path]) -> Explanation:
    """What the logs say.

    Raises:
        IscError: a log cannot be read, or there is none.
    """
    files = list({file.absolute(): file for path in paths for file in _files(path)}.values())
    names = _names(files)
    logs: dict[object, list[Reader]] = defaultdict(list)
    for file in files:
        match = NODE.search(file.name)
        node = int(match[1]) if match else None
        reader = _read(file, names[file])
        if reader.attempts:
            logs[str(file) if node is None else node].append(reader)
    if not logs:
        raise IscError("There is no log that holds anything", ", ".join(map(str, paths)), HINT)
    return explain([_node(key, readers) for key, readers in logs.items()])


def _node(key: object, readers: list[Reader]) -> Node:
    attempts: list[Attempt] = [attempt for reader in readers for attempt in reader.attempts]
    starts, resumes = (sum(getattr(reader, name) for reader in readers) for name in ("number", "resumes"))
    return Node(key if isinstance(key, int) else None, attempts, starts, resumes)


def _read(file: Path, name: str) -> Reader:
    try:
        return Reader(file, name)
    except OSError as error:
        raise IscError(f"The log cannot be read ({error.strerror})", file, HINT) from error


def _files(path: Path) -> list[Path]:
    kind = _kind(path)
    if kind != stat.S_IFDIR:
        is_open = kind == stat.S_IFIFO and path.parts[1:2] == ("dev",)  # <(...), /dev/stdin: somebody writes
        if kind not in (0, stat.S_IFREG) and not is_open:
            raise IscError("This is no plain file: it may have no end", path, HINT)
        return [path]
    found = list(itertools.islice(_below(path), MOST_LOGS + 1))
    if len(found) > MOST_LOGS:
        raise IscError(f"There are more than {MOST_LOGS} logs", path, "Name the folder of one experiment.")
    # Where there are logs of nodes, other texts beside them are somebody's notes.
    with_nodes = {file.parent for file in found if NODE.search(file.name)}
    found = [file for file in found if file.parent not in with_nodes or NODE.search(file.name)]
    return sorted(found, key=_natural)


def _below(folder: Path) -> Iterator[Path]:
    """The logs in a folder, however deep; what cannot be listed, as a process that has ended, has none."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_environment(Path(place, name))]
        yield from (file for file in (Path(place, name) for name in files) if _is_log(file))


def _is_environment(folder: Path) -> bool:
    return folder.name == ".git" or _kind(folder / "pyvenv.cfg") != 0


def _is_log(file: Path) -> bool:
    plain = file.with_name(file.name.removesuffix(PACKED))
    if plain.suffix not in SUFFIXES or file.name.startswith(NO_LOGS) or _kind(file) != stat.S_IFREG:
        return False
    return file == plain or _kind(plain) != stat.S_IFREG  # and not packed beside itself


def _kind(path: Path) -> int:
    """What is there, as `stat.S_IFMT` has it; 0 if nobody can say."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return 0


def _natural(file: Path) -> list[tuple[int, str]]:
    """Numbers in names count as numbers: rank_10 comes after rank_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(file))]


def _names(files: list[Path]) -> dict[Path, str]:
    """How each is called: by its name, or by its path where names are not unique; safe to be shown."""
    names = [file.name for file in files]
    shown = {file: file.name if names.count(file.name) == 1 else str(file) for file in files}
    return {file: "".join(c if c.isprintable() else "?" for c in name) for file, name in shown.items()}
