"""The file that `isc train` submits: what may stand in it, and what is wrong with one.

Keys and limits are those that https://docs.strongcompute.com documents, or that the published examples of
Strong Compute (https://github.com/StrongResearch/isc-demos) use.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

COMPUTE_MODES = ("cycle", "interruptible", "burst")
MOST_GPUS = 72
MOST_GPUS_UNLESS_BURST = 16


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        where: the file, with the line if there is one: `experiment.isc:12`.
        what: what is wrong, without a full stop.
        hint: what to do, as a sentence.
        severity: an error makes a submission fail or go wrong; a warning is for a person to judge.
    """

    where: str
    what: str
    hint: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.hint}"


@dataclass(frozen=True)
class Key:
    """A key of a launch file.

    Attributes:
        type: of its value; a list holds strings.
        required: whether the ISC refuses a file without it.
        doc: what its value is.
    """

    name: str
    type: type[str] | type[int] | type[list[str]]
    required: bool
    doc: str


KEYS = (
    Key("isc_project_id", str, True, "the id of the project that pays, from Control Plane: prj-<words>-YYMMDD"),
    Key("experiment_name", str, True, "any name"),
    Key("gpus", int, True, f"GPUs over all nodes, 1 to {MOST_GPUS_UNLESS_BURST}, in burst mode to {MOST_GPUS}"),
    Key("command", str, True, "what every node runs: one line, absolute paths"),
    Key("compute_mode", str, False, f"{', '.join(COMPUTE_MODES[:-1])} or {COMPUTE_MODES[-1]}"),
    Key("max_rapid_cycles", int, False, "in cycle mode: after how many cycles it is completed"),
    Key("dataset_id_list", list, False, "ids of datasets, each mounted at /data/<id>"),
    Key("burst_shape_priority_list", list, False, "ids of shapes for burst mode, from Control Plane"),
    Key("input_artifact_id_list", list, False, "ids of checkpoint artifacts to start from"),
)
DEAD_KEYS = {
    "gpu_type": "The ISC chooses the nodes: delete the line",
    "output_path": "Outputs go to $CHECKPOINT_ARTIFACT_PATH and $LOSSY_ARTIFACT_PATH: delete the line",
    "dataset_id": 'Write dataset_id_list = ["<id>"] instead',
    "nnodes": "Write gpus, the number over all nodes, instead",
    "venv_path": "launch.sh activates the virtual environment: delete the line",
}
TYPE_NAMES = {str: "a string in double quotes", int: "a whole number", list: "a list of strings"}
PROJECT_ID = re.compile(r"prj(-[a-z0-9]+)+-\d{6}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LaunchFile:
    """A launch file, and the project that it starts.

    Args:
        file: the file.
        root: the project.
        homes: where the project is in the container, each of these directories.
    """

    def __init__(self, file: Path, root: Path, homes: Iterable[str]) -> None:
        self.file = file
        self.root = root
        self.homes = tuple(homes)
        self.text = ""
        self.values: dict[str, Any] = {}

    def check(self) -> Iterator[Finding]:
        """Everything that is wrong with it, from its syntax to the arguments in its command."""
        try:
            self.text = self.file.read_text(encoding="utf-8")
            self.values = load_toml(self.text)
        except (OSError, ValueError) as error:
            message = " ".join(str(error).split()).rstrip(".")
            yield Finding(self.file.name, f"It cannot be read ({message})", "Mend it: it must be TOML, in UTF-8.")
            return
        except ImportError as error:
            yield Finding(self.file.name, str(error), "Install tomli, or use Python 3.11 or newer.")
            return
        for name in self.values:
            yield from self._check_name(name)
        sound = True
        for key in KEYS:
            for finding in self._check_type(key):
                sound = False
                yield finding
        if sound:
            yield from self._check_values()
            yield from self._check_command(self.values["command"])

    def at(self, key: str, what: str, hint: str, severity: Literal["error", "warning"] = "error") -> Finding:
        """A finding on the line of a key."""
        pattern = rf"""^[ \t]*\[*[ \t]*["']?{re.escape(key)}["']?[ \t]*[=.\]]"""
        match = re.search(pattern, self.text, re.MULTILINE)
        line = f":{self.text.count(chr(10), 0, match.start()) + 1}" if match else ""
        return Finding(f"{self.file.name}{line}", what, hint, severity)

    def _check_name(self, name: str) -> Iterator[Finding]:
        known = [key.name for key in KEYS]
        if name in DEAD_KEYS:
            yield self.at(name, f"The key {name} is dead: the ISC had it once", f"{DEAD_KEYS[name]}.")
        elif name not in known:
            close = difflib.get_close_matches(name.lower(), known, 1)
            hint = f"Did you mean {close[0]}?" if close else f"The keys are {', '.join(known)}."
            yield self.at(name, f"The ISC knows no key {name!r}", hint)

    def _check_type(self, key: Key) -> Iterator[Finding]:
        value = self.values.get(key.name)
        if value is None:
            if key.required:
                yield self.at(key.name, f"The key {key.name} is missing", f"Add it: {key.doc}.")
        elif type(value) is not key.type or (key.type is list and not all(_is_id(item) for item in value)):
            hint = f"It must be {TYPE_NAMES[key.type]}: {key.doc}."
            yield self.at(key.name, f"The value of {key.name} is of the wrong type", hint)

    def _check_values(self) -> Iterator[Finding]:
        identifier, gpus = self.values["isc_project_id"], self.values["gpus"]
        mode = self.values.get("compute_mode", COMPUTE_MODES[0])
        cycles = self.values.get("max_rapid_cycles")
        if not identifier.strip():
            hint = "Put it in before you submit: Control Plane shows it under Projects."
            yield self.at("isc_project_id", "The project id is still open", hint, "warning")
        elif not PROJECT_ID.fullmatch(identifier):
            hint = "Compare it with Control Plane: prj-<words>-YYMMDD."
            yield self.at("isc_project_id", f"{identifier!r} does not look like a project id", hint, "warning")
        if not self.values["experiment_name"].strip():
            yield self.at("experiment_name", "The experiment has no name", "Give it one; any will do.")
        if mode not in COMPUTE_MODES:
            yield self.at("compute_mode", f"There is no mode {mode!r}", f"Use {', '.join(COMPUTE_MODES)}.")
        if not 1 <= gpus <= MOST_GPUS:
            yield self.at("gpus", f"{gpus} is no number of GPUs", f"Use 1 to {MOST_GPUS}.")
        elif gpus > MOST_GPUS_UNLESS_BURST and mode in COMPUTE_MODES and mode != "burst":
            hint = f'Use at most {MOST_GPUS_UNLESS_BURST}, or compute_mode = "burst".'
            yield self.at("gpus", f"{gpus} GPUs are too many for {mode} mode", hint)
        if cycles is not None and cycles < 1:
            yield self.at("max_rapid_cycles", f"{cycles} is no number of cycles", "Use 1 or more.")
        elif cycles is not None and mode != COMPUTE_MODES[0]:
            hint = "Delete the line."
            yield self.at("max_rapid_cycles", f"It means nothing in {mode} mode", hint, "warning")

    def _check_command(self, command: str) -> Iterator[Finding]:
        lines = command.strip().splitlines()
        if len(lines) != 1 or "\\" in command:
            what = "The command is not one plain line: line breaks become blanks, and backslashes stay"
            yield self.at("command", what if lines else "The command is empty", "Chain with && on one line.")
            return
        try:
            simple_commands = _split(command)
        except ValueError as error:
            yield self.at("command", f"A shell cannot read it ({error})", "Close what was opened.")
            return
        for words in simple_commands:
            script = next((i for i, word in enumerate(words) if Path(word).name in ("launch.sh", "train.py")), -1)
            yield from self._check_paths(words[: script + 1] if script >= 0 else words)
            if script >= 0:
                yield from self._check_arguments(words[script + 1 :])
        if not re.search(r"\blaunch\.sh\b", command):
            what = "It does not hand over to launch.sh, which checks each node and starts torchrun"
            hint = f"Write: bash {self.homes[0]}/launch.sh and the arguments of train.py."
            yield self.at("command", what, hint, "warning")

    def _check_paths(self, words: list[str]) -> Iterator[Finding]:
        for word in words:
            path = word.rpartition("=")[2]
            home = next((home for home in self.homes if path.startswith(f"{home}/")), None)
            if home is not None:
                if not (self.root / path[len(home) + 1 :]).exists():
                    hint = "Correct the path, or make the file."
                    yield self.at("command", f"The file {path} is not in this project", hint)
            elif path.startswith("/root/") and not Path(path).exists():
                hint = f"The project is in {' or '.join(self.homes)}: correct the path."
                yield self.at("command", f"The path {path} is not this project's", hint)
            elif not path.startswith(("/", "~", "$", "-")) and ("/" in path or path.endswith((".py", ".sh"))):
                hint = f"The working directory is not documented: write {self.homes[0]}/..."
                yield self.at("command", f"The path {path} is relative", hint)

    def _check_arguments(self, words: list[str]) -> Iterator[Finding]:
        options = _options_of_train(self.root)
        if not options:
            return
        for word in words:
            name = word.partition("=")[0]
            # argparse takes the beginning of an option's name for the option, if it is the only such one.
            if name.startswith("--") and name not in options and sum(o.startswith(name) for o in options) != 1:
                close = difflib.get_close_matches(name, options, 1)
                hint = f"Did you mean {close[0]}?" if close else "python train.py --help lists them."
                yield self.at("command", f"train.py has no argument {name}", hint)
        if "--dataset-id" in options:
            yield from self._check_dataset(words)

    def _check_dataset(self, words: list[str]) -> Iterator[Finding]:
        mounted = self.values.get("dataset_id_list", [])
        following = dict(zip(words, [*words[1:], ""], strict=False))
        given = {name: value for name, _, value in (word.partition("=") for word in words)}
        if "--dataset-id" not in given:
            if mounted:
                hint = f"Add --dataset-id {mounted[0]}, or empty dataset_id_list."
                yield self.at("command", "It reads none of the datasets in dataset_id_list", hint, "warning")
            return
        dataset = given["--dataset-id"] or following.get("--dataset-id", "")
        if not dataset or dataset.startswith("-"):
            yield self.at("command", "--dataset-id has no value", "Write the id of a dataset after it.")
        elif dataset not in mounted and "$" not in dataset:
            hint = f'Put "{dataset}" into dataset_id_list, or correct it.'
            yield self.at("command", f"The dataset {dataset} is not in dataset_id_list", hint)


def load_toml(text: str) -> dict[str, Any]:
    """Parses TOML, with what this Python has for it.

    Raises:
        ValueError: it is not TOML.
        ImportError: Python is older than 3.11, and tomli is not installed.
    """
    for name in ("tomllib", "tomli"):
        try:
            values: dict[str, Any] = importlib.import_module(name).loads(text)
            return values
        except ModuleNotFoundError:
            continue
    raise ImportError("This Python cannot read TOML: it has neither tomllib nor tomli")


def _is_id(item: object) -> bool:
    return isinstance(item, str) and bool(item.strip())


def _split(command: str) -> list[list[str]]:
    """The words of each simple command: what stands between `&&`, `||`, `;`, `|`."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;()"):
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def _options_of_train(root: Path) -> set[str]:
    """The options that train.py gives to argparse, found without importing it; none if it uses no argparse."""
    own = _options_in(root / "train.py")
    return own and own | _options_in(root / "isc_runtime" / "options.py") | {"--help"}


def _options_in(file: Path) -> set[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    nodes = list(ast.walk(tree))
    # `add = parser.add_argument` makes another name of it.
    names = {"add_argument"} | {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "add_argument"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    calls = [node for node in nodes if isinstance(node, ast.Call) and _name_of(node.func) in names]
    return {
        argument.value
        for call in calls
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("-")
    }


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
