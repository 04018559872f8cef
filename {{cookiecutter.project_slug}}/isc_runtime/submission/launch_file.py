"""The file that `isc train` submits: what is wrong with one, measured by the table in launch_keys.py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isc_runtime.spelling import meant
from isc_runtime.submission.command.launch_command import LaunchCommand
from isc_runtime.submission.finding import Finding, Severity
from isc_runtime.submission.launch_keys import (
    COMPUTE_MODES,
    DEAD_KEYS,
    DOCUMENTATION,
    ID_CHARACTERS,
    ID_LISTS,
    KEYS,
    MOST_GPUS,
    PROJECT_ID,
    SEEN_GPUS_UNLESS_BURST,
    Key,
)
from isc_runtime.text_files import read_text
from isc_runtime.toml import load_toml

TYPE_NAMES = {str: "a string in quotes", int: "a whole number without quotes", list: "a list of strings"}
LONGEST_KEY = 100  # of a longer one the beginning is looked at
MOST_STRANGE_KEYS = 10  # one that has more is no launch file

# What examples and documentation write where an id belongs: <project-id>, your-project-id, dataset-id-0; and
# what other formats replace, {NAME} or $NAME, as TOML does not.
_PLACEHOLDER = re.compile(
    r"<[A-Za-z][^<>\n]*>|\byour[-_ ]|^(project|dataset|artifact|shape)[-_]?id([-_]?\d+)?$|YYMMDD|^\.\.\.$"
    r"|TODO|FIXME|(?:^|[-_ ])(?:change|replace|insert|fill)[-_ ]?(?:me|in|it|here|id)(?:$|[-_ ])|"
    r"^placeholder$|(?:^|[-_ ])x{3,}(?:$|[-_ ])|^\[.*\]$|\{\w*\}|\$\w+",
    re.IGNORECASE,
)
_NO_ID = re.compile(f"[^{ID_CHARACTERS}]")
_IN_COMMAND = re.compile(r"<[A-Za-z][\w.-]*>")  # with blanks in it, it could be a redirection
# The template's own default among them, and what the documentation and people write when they mean nothing.
_EMPTY_NAMES = frozenset(
    {
        *("example", "experiment", "foo", "isc", "isc experiment", "isc project", "my experiment", "name"),
        *("new experiment", "test", "test experiment", "untitled", "experiment name", "foo experiment"),
        *("abc", "asdf", "bar", "example experiment", "exp", "hello world", "my exp", "run", "tmp"),
    }
)


def check_launch_file(file: Path, root: Path, homes: Sequence[str]) -> list[Finding]:
    """Everything that is wrong with a launch file.

    Args:
        file: the launch file.
        root: the project that it starts.
        homes: the directories that the project may be in when it runs; the first is the usual one.
    """
    try:
        text = read_text(file)
        values = load_toml(text)
    except ImportError as error:
        # No error: a person whose cookiecutter runs on such a Python must get the project all the same.
        hint = "Install tomli (make setup does), or use Python 3.11 or newer, and check again."
        return [Finding(file.name, f"It was not checked: {error}", hint, "warning")]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        return [Finding(file.name, f"It cannot be read ({reason})", "Fix it: it must be TOML, in UTF-8.")]
    return list(_Check(file.name, text, values).run(root, homes))


@dataclass(frozen=True)
class _Check:
    file_name: str
    text: str
    values: dict[str, Any]

    def run(self, root: Path, homes: Sequence[str]) -> Iterator[Finding]:
        yield from self._check_names()
        for key in KEYS:
            yield from self._check_type(key)
            yield from self._check_text(key)
        yield from self._check_id_and_name()
        yield from self._check_mode()
        if (command := self._value("command", str)) is not None:
            where = self._at("command", "", "").where
            datasets: list[str] = self._value("dataset_id_list", list) or []
            text = _IN_COMMAND.sub("$PLACEHOLDER", command)  # of which nothing is known
            yield from LaunchCommand(text, where, root, homes, datasets).check()

    def _check_names(self) -> Iterator[Finding]:
        known = [key.name for key in KEYS]
        strange = [name for name in self.values if name not in known and name not in DEAD_KEYS]
        for name in filter(self.values.__contains__, DEAD_KEYS):
            what = f"The ISC no longer has the key {name}"
            yield self._at(name, what, f"{DEAD_KEYS[name]}.", "warning")  # files with one have been launched
        for name in strange[:MOST_STRANGE_KEYS]:
            close = meant(name[:LONGEST_KEY].lower(), known, cutoff=0.6)
            hint = f"Did you mean {close}?" if close else f"It has {', '.join(known)}."
            yield self._at(name, f"The ISC has no key {name!r}", hint)
        if len(strange) > MOST_STRANGE_KEYS:
            what = f"The ISC has none of {len(strange) - MOST_STRANGE_KEYS} other keys"
            yield Finding(self.file_name, what, f"It has {', '.join(known)}.")

    def _check_type(self, key: Key) -> Iterator[Finding]:
        if key.name not in self.values:
            if key.required:
                yield self._at(key.name, f"The key {key.name} is missing", f"Add it: {key.doc}.")
        elif self._value(key.name, key.type) is None:
            hint = f"It must be {TYPE_NAMES[key.type]}: {key.doc}."
            yield self._at(key.name, f"The value of {key.name} has the wrong type", hint)

    def _check_text(self, key: Key) -> Iterator[Finding]:
        """What was copied from an example and not filled in; white space that makes another id of an id."""
        value = self._value(key.name, key.type)
        texts: list[str] = [] if value is None or key.type is int else [value] if key.type is str else value
        pattern = _IN_COMMAND if key.name == "command" else _PLACEHOLDER
        for text in texts:
            if match := pattern.search(text):
                severity: Severity = "warning" if key.name == "experiment_name" else "error"
                what = f"{match[0] if key.name == 'command' else text} in {key.name} is a placeholder"
                yield self._at(key.name, what, "Write what belongs there.", severity)
            if key.name not in ("command", "experiment_name") and text != text.strip():
                yield self._at(
                    key.name, f"There is white space around {text!r}", "Delete it: it is no part of an id."
                )
            elif key.name in ID_LISTS and not match and (match := _NO_ID.search(text)):
                hint = "Write one id between two quotes, as Control Plane shows it, and no path."
                yield self._at(key.name, f"{text!r} is no id: it has {match[0]!r}", hint)

    def _check_id_and_name(self) -> Iterator[Finding]:
        project_id = self._value("isc_project_id", str)
        if project_id is not None and not project_id.strip():
            hint = "Put it in before you submit: Control Plane shows it under Projects."
            yield self._at("isc_project_id", "The id of the ISC project is still open", hint, "warning")
        elif project_id and not (
            re.fullmatch(PROJECT_ID, project_id.strip()) or _PLACEHOLDER.search(project_id)
        ):
            what = f"{project_id!r} does not look like a project id"
            hint = "Compare it with Control Plane: prj-<words>-YYMMDD."
            yield self._at("isc_project_id", what, hint, "warning")
        name = self._value("experiment_name", str)
        if name is not None and not name.strip():
            yield self._at("experiment_name", "The experiment has no name", "Give it one, any will do.")
        elif name and _says_nothing(name):
            hint = "Name what is tried: that is how you will find it among others in Control Plane."
            yield self._at("experiment_name", f"The name {name!r} says nothing", hint, "warning")

    def _check_mode(self) -> Iterator[Finding]:
        mode = self.values.get("compute_mode", COMPUTE_MODES[0])
        gpus = self._value("gpus", int)
        cycles = self._value("max_rapid_cycles", int)
        if isinstance(mode, str) and mode not in COMPUTE_MODES:
            yield self._at("compute_mode", f"There is no mode {mode!r}", f"Use {', '.join(COMPUTE_MODES)}.")
        if gpus is not None and not 1 <= gpus <= MOST_GPUS:
            what = f"{_shown(gpus)} is no possible number of GPUs"
            yield self._at("gpus", what, f"Use 1 to {MOST_GPUS}.")
        elif gpus is not None and gpus > SEEN_GPUS_UNLESS_BURST and mode in COMPUTE_MODES[:2]:
            what = f"{gpus} GPUs in {mode} mode may be refused"
            hint = (
                f"In July 2025 the ISC refused more than {SEEN_GPUS_UNLESS_BURST}, as users report; its "
                f"documentation allows {MOST_GPUS} ({DOCUMENTATION}). "
                f'If it refuses: use fewer, or compute_mode = "burst".'
            )
            yield self._at("gpus", what, hint, "warning")
        if cycles is not None and cycles < 1:
            what = f"{_shown(cycles)} is no possible number of cycles"
            yield self._at("max_rapid_cycles", what, "Use 1 or more.")
        elif cycles is not None and mode in COMPUTE_MODES[1:]:
            hint = "Delete it, or change compute_mode."
            yield self._at("max_rapid_cycles", f"{mode} mode has no cycles to count", hint, "warning")
        if self._value("burst_shape_priority_list", list) and mode in COMPUTE_MODES[:2]:
            hint = 'Delete it, or write compute_mode = "burst".'
            yield self._at("burst_shape_priority_list", f"{mode} mode has no shapes", hint, "warning")

    def _value(self, name: str, kind: type[Any]) -> Any:
        """The value if it has the right type, else None."""
        value: Any = self.values.get(name)
        if type(value) is not kind:  # and not isinstance: True is an int, too
            return None
        if kind is list and not all(isinstance(item, str) and item.strip() for item in value):
            return None
        return value

    def _at(self, name: str, what: str, hint: str, severity: Severity = "error") -> Finding:
        key = re.escape(name[:LONGEST_KEY])
        match = re.search(rf"""^[ \t]*\[*[ \t]*(["']?){key}\1[ \t]*[=.\]]""", self.text, re.MULTILINE)
        line = f":{self.text.count(chr(10), 0, match.start()) + 1}" if match else ""
        return Finding(f"{self.file_name}{line}", what, hint, severity)


def _says_nothing(name: str) -> bool:
    words = re.sub(r"[\W_\d]+", " ", name).strip().lower()
    return words in _EMPTY_NAMES or len(set(words)) < 2


def _shown(number: int) -> str:
    """A number; one of thousands of digits, which Python refuses to write, in words."""
    return str(number) if number.bit_length() < 64 else f"A number of {number.bit_length()} bits"
