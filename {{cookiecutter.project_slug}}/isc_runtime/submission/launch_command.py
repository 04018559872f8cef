"""The `command` of a launch file: would it start this project's training on a node of the ISC?

Neither the shell nor the working directory that the ISC gives it is documented. So it has to be one line with
absolute paths, and everything that needs more than that is in launch.sh.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from isc_runtime.submission.finding import Finding

SCRIPTS = ("launch.sh", "train.py")  # what comes after one of them are arguments of train.py


@dataclass(frozen=True)
class LaunchCommand:
    """The command, and what it is measured against.

    Attributes:
        text: the command itself.
        where: the place in the launch file, for findings.
        root: the project.
        homes: the directories that the project may be in when the command runs; the first is the usual one.
        datasets: the ids of the mounted datasets.
    """

    text: str
    where: str
    root: Path
    homes: Sequence[str]
    datasets: Sequence[str]

    def check(self) -> Iterator[Finding]:
        """Everything that is wrong with it."""
        if not self.text.strip():
            yield self._error("The command is empty", f"Write: bash {self.homes[0]}/launch.sh")
            return
        if len(self.text.strip().splitlines()) > 1 or "\\" in self.text:
            what = "The command has a line break, which becomes a blank, or a backslash, which stays one"
            yield self._error(what, "Write one line, and chain with &&.")
            return
        try:
            simple_commands = _split(self.text)
        except ValueError as error:
            yield self._error(f"No shell can read the command ({error})", "Close what was opened.")
            return
        yield from self._check_simple_commands(simple_commands)

    def _check_simple_commands(self, simple_commands: list[tuple[str, list[str]]]) -> Iterator[Finding]:
        directory = ""
        for operator, words in simple_commands:
            if operator not in ("", "&&"):
                hint = "Chain with &&, so that the experiment fails when something does."
                yield self._warning(f"The command goes on after a failure, because of {operator!r}", hint)
            if len(words) == 2 and words[0] == "cd" and words[1].startswith("/"):
                directory = words[1].rstrip("/")
            script = next((i for i, word in enumerate(words) if PurePosixPath(word).name in SCRIPTS), None)
            for word in words if script is None else words[: script + 1]:
                yield from self._check_path(word.rpartition("=")[2], directory)
            if script is not None:
                yield from self._check_arguments(words[script + 1 :])
        if not re.search(r"\blaunch\.sh\b", self.text):
            what = "The command does not hand over to launch.sh, which checks the node and starts torchrun"
            hint = f"Write: bash {self.homes[0]}/launch.sh, with the arguments of train.py."
            yield self._warning(what, hint)

    def _check_path(self, path: str, directory: str) -> Iterator[Finding]:
        is_relative = not path.startswith(("/", "~", "$", "-")) and "://" not in path
        if is_relative and ("/" in path or path.endswith((".py", ".sh"))):
            if not directory:
                hint = f"Nobody promises a working directory: write {self.homes[0]}/..."
                yield self._error(f"The path {path} is relative", hint)
                return
            path = f"{directory}/{path.removeprefix('./')}"
        home = next((home for home in self.homes if f"{path}/".startswith(f"{home}/")), None)
        if home is not None:
            if not (self.root / path[len(home) :].strip("/")).exists():
                yield self._error(
                    f"There is no {path} in this project", "Correct the path, or make the file."
                )
        elif path.startswith("/root/") and not os.access(path, os.F_OK):
            hint = f"The project will be in {' or '.join(self.homes)}: correct the path."
            yield self._error(f"The path {path} is outside this project", hint)

    def _check_arguments(self, words: list[str]) -> Iterator[Finding]:
        options = options_of_train(self.root)
        if not options:
            return
        for word in words:
            name = word.partition("=")[0]
            # argparse takes the beginning of a name for the name, if no other begins so.
            if (
                name.startswith("--")
                and name not in options
                and sum(o.startswith(name) for o in options) != 1
            ):
                close = difflib.get_close_matches(name, options, 1, cutoff=0.75)
                hint = f"Did you mean {close[0]}?" if close else "python train.py --help lists them."
                yield self._error(f"train.py has no argument {name}", hint)
        if "--dataset-id" in options:
            yield from self._check_dataset(_values_of("--dataset-id", words))
        if "--model" in options:
            yield from self._check_model(_values_of("--model", words))

    def _check_model(self, given: list[str]) -> Iterator[Finding]:
        models = models_of(self.root)
        for model in given:
            if models and model not in models and "$" not in model:
                hint = f"Choose one of {', '.join(models)}, or add yours to MODELS."
                yield self._warning(f"MODELS in model.py does not name {model!r}", hint)

    def _check_dataset(self, given: list[str]) -> Iterator[Finding]:
        for dataset in given:
            if not dataset or dataset.startswith("-"):
                yield self._error("--dataset-id has no value", "Write the id of a dataset after it.")
            elif dataset not in self.datasets and "$" not in dataset:
                hint = f'Put "{dataset}" into the list, or correct it.'
                yield self._error(f"The dataset {dataset} is not in dataset_id_list", hint)
        if self.datasets and not given:
            hint = f"Add --dataset-id {self.datasets[0]}, or delete dataset_id_list."
            yield self._warning("The command uses none of the datasets in dataset_id_list", hint)

    def _error(self, what: str, hint: str) -> Finding:
        return Finding(self.where, what, hint)

    def _warning(self, what: str, hint: str) -> Finding:
        return Finding(self.where, what, hint, "warning")


def options_of_train(root: Path) -> set[str]:
    """The options that train.py gives to argparse, read and not run; none if it does not use argparse."""
    own = _options_in(root / "train.py")
    return own and own | _options_in(root / "isc_runtime" / "options.py") | {"--help"}


def models_of(root: Path) -> list[str]:
    """The names in MODELS in model.py, read and not run; none if that is not written out as a dict."""
    try:
        statements = ast.parse((root / "model.py").read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if [_name(target) for target in targets] == ["MODELS"]:
                keys = statement.value.keys
                names = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
                names = names if len(names) == len(keys) else []  # another part of it is computed
    return names


def _values_of(option: str, words: list[str]) -> list[str]:
    """What follows an option, after a blank or "="; "" if nothing does."""
    return [
        word.partition("=")[2] or after
        for word, after in zip(words, [*words[1:], ""], strict=False)
        if word.partition("=")[0] == option
    ]


def _options_in(file: Path) -> set[str]:
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return set()
    names = {"add_argument"}
    for node in nodes:  # `add = parser.add_argument` makes another name of it
        if isinstance(node, ast.Assign) and _name(node.value) == "add_argument":
            names |= {_name(target) for target in node.targets}
    calls = (node for node in nodes if isinstance(node, ast.Call) and _name(node.func) in names)
    arguments = (argument for call in calls for argument in call.args)
    values = (argument.value for argument in arguments if isinstance(argument, ast.Constant))
    return {value for value in values if isinstance(value, str) and value.startswith("-")}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _split(command: str) -> list[tuple[str, list[str]]]:
    """The words of each simple command, and the operator before it: `&&`, `||`, `;`, `|`, `&`."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""  # "#" within a word is an ordinary character
    commands: list[tuple[str, list[str]]] = [("", [])]
    for word in lexer:
        if set(word) <= set("&|;()"):
            commands.append((word, []))
        else:
            commands[-1][1].append(word)
    return commands
