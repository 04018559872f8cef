"""All ranks must run the same: one with another learning rate, seed or code trains on in silence.

The master tells what it runs, and each rank compares: however many there are, a rank has one look.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from isc_runtime import config
from isc_runtime.errors import IscError
from isc_runtime.ranks.group import Group

# A node may have its data elsewhere. A line of the log is no such thing: all ranks add up for it.
HARMLESS = ("--data-root", "--workers", "--profile-steps", "--flops", "--batch-flops")
MOST_FILES, LARGEST = 2000, 2**20  # of the project; more are not looked at, or larger ones
MOST_SAID = 5
NO_CODE = ("checkpoints", "runs", "rehearsals", "build", "node_modules", "site-packages")
FILE = "the content of "

Description = dict[str, str]


def check_same(group: Group) -> None:
    """Compares the options, the project's Python files and the versions with the master's. A collective.

    Raises:
        RankError: a rank runs something else; the message says what, and on which node.
    """
    if group.world_size == 1:
        return
    script = Path(sys.argv[0]).resolve()
    own = group.each(lambda: describe(script, sys.argv[1:]))
    masters = group.master(lambda: own)

    def compare() -> None:
        found = differences(own, masters)
        if found:
            more = f", and {len(found) - MOST_SAID} more" if len(found) > MOST_SAID else ""
            raise IscError(
                f"This rank runs something else than rank 0: {'; '.join(found[:MOST_SAID])}{more}",
                f"node {group.environment.node_rank} on {group.environment.hostname}",
                "Give all nodes the same command, the same code and the same packages.",
            )

    group.each(compare)


def describe(script: Path, words: Sequence[str]) -> Description:
    """What a training runs, by what it is called.

    Args:
        script: in the folder of its project.
        words: its command line.
    """
    description = {
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "CUDA of torch": str(torch.version.cuda),
        "numpy": np.__version__,
    }
    for file in python_files(script.parent):
        description[f"{FILE}{file.relative_to(script.parent)}"] = _digest(file)
    settings = config.config_file(words, script.with_suffix(".toml"))
    with contextlib.suppress(config.ConfigError):  # of another form, for a parser of the user's own
        words = [*(config.words_of(settings) if settings else []), *words]
    return description | _options(words, script.parent)


def differences(own: Description, masters: Description) -> list[str]:
    """What is not the same, in words."""
    found = []
    for name in sorted(own.keys() | masters.keys()):
        here, there = own.get(name), masters.get(name)
        if here == there:
            continue
        if name.startswith(FILE):
            found.append(name if here and there else f"{name} ({'not there' if here else 'not here'})")
        else:
            found.append(f"{name}: {here or 'not given'} here, {there or 'not given'} there")
    return found


def python_files(project: Path) -> Iterator[Path]:
    """The project's own, in order, without virtual environments and what is no code of the training."""
    count = 0
    for folder, folders, files in os.walk(project):
        place = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "__")) and name not in (*NO_CODE, "tests")
            if not (place / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if name.endswith(".py"):
                count += 1
                if count > MOST_FILES:
                    return
                yield place / name


def _options(words: Sequence[str], project: Path) -> Description:
    """The options of a command line with their values; of a file that one names, its content too."""
    found: Description = {}
    name = "an argument"
    for word in words:
        value = word
        if word.startswith("--"):
            name, has_value, value = word.partition("=")
            if not has_value:
                found[name] = "given"
                continue
        if name in HARMLESS:
            continue
        shown = _from_project(value, project)
        before = found.get(name, "given")
        found[name] = shown if before == "given" else f"{before} {shown}"
        if Path(value).is_file():
            found[f"{FILE}{shown}"] = _digest(Path(value))
    return {key: value for key, value in found.items() if key not in HARMLESS}


def _from_project(value: str, project: Path) -> str:
    """A path in the project as seen from there, which a node may have elsewhere; anything else as it is."""
    with contextlib.suppress(OSError, ValueError):  # no name of a file
        if value.startswith("/"):
            return str(Path(value).resolve().relative_to(project))
    return value


def _digest(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST:
            return f"{file.stat().st_size} bytes"
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
