"""What is trained, and with what: said at each start, and kept beside its curves.

So that a curve can be traced back to its code: in the log, in the trackers (TensorBoard: text and hparams),
in RECORD, one entry a start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from isc_runtime.checkpointing.on_disk.durable import write_durably
from isc_runtime.checkpointing.on_disk.untrusted import parse, read_plain
from isc_runtime.config import plain
from isc_runtime.environment import Environment
from isc_runtime.logs import Scalars
from isc_runtime.options import GIVEN
from isc_runtime.tracking.chosen import DEFAULT, check_trackers, make_trackers

PROJECT = Path(__file__).resolve().parent.parent
RECORD = "run.json"
PATIENCE = 10.0  # seconds for a slow git; it has had all the time until the first batch by then
MOST = 500  # starts that are kept, the first one among them
LARGEST = 64 * 2**20  # bytes of a record

logger = logging.getLogger("train")


@contextlib.contextmanager
def recorded(
    arguments: argparse.Namespace, environment: Environment, root: Path = PROJECT
) -> Iterator[Scalars]:
    """The scalars of a training; when it begins, or goes on, the master records what it is.

    Args:
        arguments: its options.
        environment: of this rank.
        root: the project.

    Raises:
        IscError: a tracker is not installed; on all ranks alike.
    """
    words = getattr(arguments, "tracker", DEFAULT)
    check_trackers(words)
    if not environment.is_master:
        with Scalars(None) as scalars:
            yield scalars
        return
    trackers = make_trackers(words, environment.log_directory)
    record = Record(arguments, environment, root)
    with Scalars(environment.log_directory, record, trackers) as scalars:
        yield scalars


class Record:
    """What a start is; its facts are looked for in the background.

    Args:
        arguments: the options.
        environment: of this rank.
        root: the project.
    """

    def __init__(self, arguments: argparse.Namespace, environment: Environment, root: Path) -> None:
        self._environment = environment
        self._options = {name: plain(value) for name, value in vars(arguments).items() if name != GIVEN}
        self._facts: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._look, args=(root,), daemon=True, name="facts")
        self._thread.start()

    def _look(self, root: Path) -> None:
        from isc_runtime.submission.facts import facts  # a fifth of a second, which nobody waits for

        self._facts = facts(root)

    def __call__(self, step: int) -> Mapping[str, Any]:
        """The training begins, or goes on, at this step: says what it is, and returns it."""
        self._thread.join(PATIENCE)
        known = self._facts
        for line in lines_of(known):
            logger.info("[RUN] %s", line)
        options = " ".join(f"{name}={value}" for name, value in self._options.items() if value is not None)
        logger.info("[RUN] options: %s", options)
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "step": step,
            "ranks": self._environment.world_size,
            "host": self._environment.hostname,
            "arguments": sys.argv,
            "options": self._options,
            **known,
        }
        add_start(self._environment.log_directory / RECORD, entry)
        return entry


def lines_of(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of `submission.facts`, in a few lines of a log."""
    if not facts:
        yield f"what it is was not found out within {PATIENCE:g} s"
        return
    changes = {True: ", with changes", False: "", None: ""}[facts["is_dirty"]]
    commit = f"{facts['commit']}{changes}" if facts["commit"] else "unknown"
    yield f"commit {commit}; files {_short(facts['files'])}, lock {_short(facts['lock'])}"
    yield f"versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}"
    if facts["command"]:
        yield f"experiment.isc: {facts['command']}"
    if facts["answers"]:
        yield f"answers: {', '.join(f'{name}={answer}' for name, answer in facts['answers'].items())}"


def add_start(file: Path, entry: dict[str, Any]) -> None:
    """Adds a start to a record: the file is replaced as a whole. What goes wrong is said, and no more.

    Args:
        file: the record; made if it does not exist.
        entry: of the start.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # without TensorBoard nobody else makes it
        content: dict[str, Any] = parse(read_plain(file, LARGEST)) if file.exists() else {}
        starts, count = content.get("starts", []), content.get("count", 0)
        if content and not (isinstance(starts, list) and isinstance(count, int) and "count" in content):
            raise ValueError("it is not one of this project")
        starts = [*starts[:1], *starts[1:][2 - MOST :], entry] if starts else [entry]
        text = json.dumps({"count": count + 1, "starts": starts}, indent=1, ensure_ascii=False)
        write_durably(file, text.encode("utf-8", "backslashreplace") + b"\n")
    except (OSError, ValueError) as error:
        logger.warning("[RUN] %s was not written (%s)", file, error)


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
