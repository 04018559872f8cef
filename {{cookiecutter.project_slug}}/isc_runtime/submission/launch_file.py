"""The file that `isc train` submits: what may stand in it, and what is wrong with one.

Keys and limits are those that https://docs.strongcompute.com documents, or that the published examples of
Strong Compute (https://github.com/StrongResearch/isc-demos) use.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isc_runtime.submission.finding import Finding, Severity
from isc_runtime.submission.launch_command import LaunchCommand

COMPUTE_MODES = ("cycle", "interruptible", "burst")  # the first is the default
MOST_GPUS = 72
MOST_GPUS_UNLESS_BURST = 16


@dataclass(frozen=True)
class Key:
    """A key of a launch file.

    Attributes:
        name: the key.
        type: of its value; a list holds strings.
        required: whether a launch file must have it.
        doc: what its value is.
    """

    name: str
    type: type[str] | type[int] | type[list[str]]
    required: bool
    doc: str


KEYS = (
    Key("isc_project_id", str, True, "the project that pays, prj-<words>-YYMMDD in Control Plane"),
    Key("experiment_name", str, True, "any name"),
    Key(
        "gpus", int, True, f"GPUs over all nodes, 1 to {MOST_GPUS_UNLESS_BURST}, in burst mode to {MOST_GPUS}"
    ),
    Key("command", str, True, "what every node runs, in one line with absolute paths"),
    Key("compute_mode", str, False, f"one of {', '.join(COMPUTE_MODES)}"),
    Key("max_rapid_cycles", int, False, "in cycle mode, after how many cycles it is completed"),
    Key("dataset_id_list", list, False, "datasets, each mounted at /data/<id>"),
    Key("burst_shape_priority_list", list, False, "shapes for burst mode, as Control Plane names them"),
    Key("input_artifact_id_list", list, False, "checkpoint artifacts of earlier experiments to start from"),
)
TYPE_NAMES = {str: "a string in quotes", int: "a whole number without quotes", list: "a list of strings"}
DEAD_KEYS = {
    "gpu_type": "Delete it: the ISC chooses the nodes",
    "output_path": "Delete it: outputs go where CHECKPOINT_ARTIFACT_PATH and LOSSY_ARTIFACT_PATH say",
    "dataset_id": 'Write dataset_id_list = ["<id>"] instead',
    "nnodes": "Write gpus instead, the number over all nodes",
    "venv_path": "Delete it: launch.sh activates the virtual environment",
}
PROJECT_ID = re.compile(r"prj(-[a-z0-9]+)+-[0-9]{6}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_launch_file(file: Path, root: Path, homes: Sequence[str]) -> list[Finding]:
    """Everything that is wrong with a launch file.

    Args:
        file: the launch file.
        root: the project that it starts.
        homes: the directories that the project may be in when it runs; the first is the usual one.
    """
    try:
        text = file.read_text(encoding="utf-8")
        values = load_toml(text)
    except ImportError as error:
        # No error: a person whose cookiecutter runs on such a Python shall get the project all the same.
        hint = "Install tomli, or use Python 3.11 or newer, and check again."
        return [Finding(file.name, f"It was not checked: {error}", hint, "warning")]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        return [Finding(file.name, f"It cannot be read ({reason})", "Mend it: it has to be TOML, in UTF-8.")]
    return list(_Check(file.name, text, values).run(root, homes))


def load_toml(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: it is not TOML.
        ImportError: Python is older than 3.11, and tomli is not installed.
    """
    for name in ("tomllib", "tomli"):
        try:
            parser = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        values: dict[str, Any] = parser.loads(text)
        return values
    raise ImportError("this Python has neither tomllib nor tomli")


@dataclass(frozen=True)
class _Check:
    file_name: str
    text: str
    values: dict[str, Any]

    def run(self, root: Path, homes: Sequence[str]) -> Iterator[Finding]:
        for name in self.values:
            yield from self._check_name(name)
        for key in KEYS:
            yield from self._check_type(key)
        yield from self._check_id_and_name()
        yield from self._check_mode()
        if (command := self._value("command", str)) is not None:
            where = self._at("command", "", "").where
            datasets: list[str] = self._value("dataset_id_list", list) or []
            yield from LaunchCommand(command, where, root, homes, datasets).check()

    def _check_name(self, name: str) -> Iterator[Finding]:
        known = [key.name for key in KEYS]
        if name in DEAD_KEYS:
            yield self._at(name, f"The ISC no longer has the key {name}", f"{DEAD_KEYS[name]}.")
        elif name not in known:
            close = difflib.get_close_matches(name.lower(), known, 1)
            hint = f"Did you mean {close[0]}?" if close else f"It has {', '.join(known)}."
            yield self._at(name, f"The ISC has no key {name!r}", hint)

    def _check_type(self, key: Key) -> Iterator[Finding]:
        if key.name not in self.values:
            if key.required:
                yield self._at(key.name, f"The key {key.name} is missing", f"Add it: {key.doc}.")
        elif self._value(key.name, key.type) is None:
            hint = f"It has to be {TYPE_NAMES[key.type]}: {key.doc}."
            yield self._at(key.name, f"The value of {key.name} has the wrong type", hint)

    def _check_id_and_name(self) -> Iterator[Finding]:
        project_id = self._value("isc_project_id", str)
        if project_id == "":
            hint = "Put it in before you submit: Control Plane shows it under Projects."
            yield self._at("isc_project_id", "The id of the ISC project is still open", hint, "warning")
        elif project_id is not None and not PROJECT_ID.fullmatch(project_id):
            hint = "Compare it with Control Plane: prj-<words>-YYMMDD."
            yield self._at(
                "isc_project_id", f"{project_id!r} does not look like a project id", hint, "warning"
            )
        if self._value("experiment_name", str) == "":
            yield self._at("experiment_name", "The experiment has no name", "Give it one, any will do.")

    def _check_mode(self) -> Iterator[Finding]:
        mode = self.values.get("compute_mode", COMPUTE_MODES[0])
        gpus = self._value("gpus", int)
        cycles = self._value("max_rapid_cycles", int)
        if isinstance(mode, str) and mode not in COMPUTE_MODES:
            yield self._at("compute_mode", f"There is no mode {mode!r}", f"Use {', '.join(COMPUTE_MODES)}.")
        if gpus is not None and not 1 <= gpus <= MOST_GPUS:
            yield self._at("gpus", f"{gpus} is no possible number of GPUs", f"Use 1 to {MOST_GPUS}.")
        elif gpus is not None and gpus > MOST_GPUS_UNLESS_BURST and mode in COMPUTE_MODES[:2]:
            hint = f'Use at most {MOST_GPUS_UNLESS_BURST}, or compute_mode = "burst".'
            yield self._at("gpus", f"{gpus} GPUs are too many for {mode} mode", hint)
        if cycles is not None and cycles < 1:
            yield self._at("max_rapid_cycles", f"{cycles} is no possible number of cycles", "Use 1 or more.")
        elif cycles is not None and mode in COMPUTE_MODES[1:]:
            hint = "Delete it, or change compute_mode."
            yield self._at("max_rapid_cycles", f"{mode} mode has no cycles to count", hint, "warning")

    def _value(self, name: str, kind: type[Any]) -> Any:
        """The value if it has the right type, else None."""
        value: Any = self.values.get(name)
        if type(value) is not kind:  # and not isinstance: True is an int, too
            return None
        if kind is list and not all(isinstance(item, str) and item.strip() for item in value):
            return None
        return value.strip() if kind is str else value

    def _at(self, name: str, what: str, hint: str, severity: Severity = "error") -> Finding:
        key = re.escape(name)
        match = re.search(rf"""^[ \t]*\[*[ \t]*(["']?){key}\1[ \t]*[=.\]]""", self.text, re.MULTILINE)
        line = f":{self.text.count(chr(10), 0, match.start()) + 1}" if match else ""
        return Finding(f"{self.file_name}{line}", what, hint, severity)
