"""The `command` of a launch file: would it start this project's training on a node of the ISC?

Neither the shell nor the working directory that the ISC gives it is documented. So it must do with absolute
paths and what every shell understands; everything that needs more than that is in launch.sh.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath

from isc_runtime.spelling import meant
from isc_runtime.submission.command.command_form import (
    PREPARATIONS,
    WITH_ONE_ARGUMENT,
    as_meant,
    check_chain,
    check_form,
)
from isc_runtime.submission.command.on_a_node import (
    LAUNCH,
    MODULES,
    PYTHON,
    Directory,
    check_quotes,
    check_simple_command,
    resolved,
)
from isc_runtime.submission.command.shell import SimpleCommand, joined, programs_of, split
from isc_runtime.submission.command.train_arguments import check_arguments
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.launch_keys import TORCHRUN_VARIABLES, VARIABLES

MOST_CHARACTERS = 131072  # of one argument of a program: MAX_ARG_STRLEN of Linux
MOST_LINES = 1000
MOST_FINDINGS = 20
SCRIPTS = (LAUNCH, "train.py")  # what comes after one of them are arguments of train.py
AS_MODULE = re.compile(r"-\w*m|--module")
MODULE = "train"  # the same, after python -m or torchrun -m
NO_COMMANDS = {
    "isc_run": "It is in old examples, and was replaced: start launch.sh, and torchrun in it.",
    "isc": "It submits experiments, from a container; a node of an experiment must not.",
}


@dataclass(frozen=True)
class LaunchCommand:
    """The command, and what it is measured against.

    Attributes:
        text: the command itself.
        where: the place in the launch file, for findings.
        root: the project.
        homes: the directories that the project may be in when the command runs; the first is the usual one.
        datasets: the ids of the mounted datasets.
        is_part: whether it is only what a shell is told to run by another command.
        directory: where it begins, "" if nobody knows.
    """

    text: str
    where: str
    root: Path
    homes: Sequence[str]
    datasets: Sequence[str]
    is_part: bool = False
    directory: str = ""

    def check(self) -> Iterator[Finding]:
        """What is wrong with it, as far as a person will read."""
        yield from islice(self._check(), MOST_FINDINGS)

    def _check(self) -> Iterator[Finding]:
        text = joined(self.text)
        if not text:
            yield self._error("The command is empty", f"Write: bash {self.homes[0]}/launch.sh")
            return
        lines = self.text.count("\n") + 1
        if len(text) > MOST_CHARACTERS or lines > MOST_LINES:
            what = f"The command is too long, {len(text)} characters in {lines} lines"
            yield self._error(what, f"Write: bash {self.homes[0]}/launch.sh, and the rest into that.")
            return
        if not text.replace("\t", " ").isprintable():
            yield self._error("The command has a control character", "Delete it: write the line once more.")
            return
        if "\\" in re.sub("'[^']*'", "", text):
            what = (
                "The command has a backslash, which stays one and takes its meaning from the next character"
            )
            yield self._error(what, "Delete it: the ISC joins lines by itself, and && chains commands.")
            yield from replace(self, text=self.text.replace("\\", " "))._check()
            return
        try:
            split(text)
        except ValueError as error:
            yield self._error(f"No shell can read the command ({error})", "Close what was opened.")
            return
        simple_commands = split(as_meant(self.text))
        if here := next((one.here_document for one in simple_commands if one.here_document), None):
            what = f"What comes after <<{here} needs lines of its own, and the ISC makes one line of them"
            yield self._error(what, "Put those lines into a file of the project.")
            return
        yield from check_form(self.text, self.where)
        yield from self._check_simple_commands(simple_commands)
        if not self.is_part:  # what is within quotes is looked at, too
            yield from self._check_programs(programs_of(simple_commands))
            yield from check_quotes(text, self.where)
            yield from self._check_variables(text)
            yield from self._check_mounts(text)

    def _check_simple_commands(self, simple_commands: list[SimpleCommand]) -> Iterator[Finding]:
        yield from check_chain(simple_commands, self.where)
        directory = Directory(self.directory)
        for simple in simple_commands:
            directory.enter(simple.operator)
            yield from check_simple_command(simple, self.where)
            if simple.program in NO_COMMANDS:
                yield self._error(
                    f"There is no command {simple.program} on a node", NO_COMMANDS[simple.program]
                )
            elif simple.program in ("cd", "popd", "pushd"):
                directory.change(simple)
                if is_wrong := list(self._check_path(directory.path)):
                    yield from is_wrong
                    directory.path = "$"  # unknown: one finding is enough
            elif (inner := simple.shell_text) is not None:
                place = directory.of(simple)
                yield from replace(self, text=inner, is_part=True, directory=place).check()
            else:
                yield from self._check_program(simple, directory.of(simple))

    def _check_programs(self, programs: set[str]) -> Iterator[Finding]:
        """Whether one of them trains, and how."""
        if programs <= PREPARATIONS:
            names = ", ".join(sorted(programs - {""})) or "nothing"
            yield self._error(
                f"The command starts no training, only {names}", f"Write: bash {self.homes[0]}/launch.sh"
            )
        elif not re.search(r"\blaunch\.sh\b", self.text) and not programs & NO_COMMANDS.keys():
            what = "The command does not hand over to launch.sh, which checks the node and starts torchrun"
            hint = f"Write: bash {self.homes[0]}/launch.sh, with the arguments of train.py."
            yield self._warning(what, hint)

    def _check_program(self, simple: SimpleCommand, directory: str) -> Iterator[Finding]:
        """The files that it needs, and the arguments of train.py."""
        words = simple.words[simple.start :]
        if not words or (simple.program in PREPARATIONS and simple.program not in WITH_ONE_ARGUMENT):
            return
        script = next((place for place in range(len(words)) if _starts_training(words, place)), None)
        end = len(words) if script is None else script + 1
        for place, word in enumerate(words[:end]):
            is_program = place == 0 and "/" in word
            is_sourced = place == 1 and simple.program in WITH_ONE_ARGUMENT
            if place == script and word == MODULE:
                yield from self._check_module(directory)
            elif (is_program or is_sourced or word.endswith((".py", ".sh"))) and not word.startswith("-"):
                yield from self._check_relative(word, directory)
        if script is not None:
            yield from check_arguments(self.root, words[script + 1 :], self.datasets, self.where)

    def _check_module(self, directory: str) -> Iterator[Finding]:
        """train.py is found in the working directory, unless the command names another place."""
        path = resolved(f"{MODULE}.py", directory)
        if path.startswith(("/", "$")):
            yield from self._check_path(path)
        elif "PYTHONPATH" not in self.text:
            what = f"Python looks for {MODULE} in the working directory, and nobody promises one"
            yield self._error(what, f"Write before it: cd {self.homes[0]} &&")

    def _check_relative(self, path: str, directory: str) -> Iterator[Finding]:
        whole = resolved(path, directory)
        if whole.startswith(("/", "$")):
            yield from self._check_path(whole)
        elif "://" not in path:
            hint = f"Nobody promises a working directory: write {self.homes[0]}/..."
            yield self._error(f"The path {path} is relative", hint)

    def _check_path(self, path: str) -> Iterator[Finding]:
        """Whether something is there, as far as that can be known here."""
        home = next((home for home in self.homes if f"{path}/".startswith(f"{home}/")), None)
        name = PurePosixPath(path).name
        if "$" in path or any(character in path for character in "<>*?"):
            return
        if home is not None:
            if not (self.root / path[len(home) :].strip("/")).exists():
                hint = "Correct the path, or make the file."
                yield self._error(f"There is no {path} in this project", hint)
        elif path.startswith("/opt/venv/") and not path.startswith("/opt/venv/bin/"):
            hint = "Write /opt/venv/bin/activate, or nothing: launch.sh activates it."
            yield self._error(f"A virtual environment has no {path[len('/opt/venv/') :]}", hint)
        elif str(self.root) in self.homes and not os.access(path, os.F_OK):  # this is the container
            yield self._error(f"There is no {path} in this container", "Correct the path, or make the file.")
        elif (name in SCRIPTS or (self.root / name).is_file()) and self._is_elsewhere(path):
            hint = f"The project will be in {' or '.join(self.homes)}: correct the path."
            yield self._error(f"The path {path} is outside this project", hint)

    def _is_elsewhere(self, path: str) -> bool:
        """Whether it is in the place of another project; this one may be in any folder of its name."""
        names = [PurePosixPath(home).name for home in self.homes]
        is_named = PurePosixPath(path).parent.name in names
        return path.startswith("/root/") and not is_named and not os.access(path, os.F_OK)

    def _check_variables(self, text: str) -> Iterator[Finding]:
        own = set(re.findall(r"\b([A-Za-z_]\w*)=", text))
        for name in dict.fromkeys(re.findall(r"\$\{?([A-Za-z_]\w*)", text)):
            close = meant(name, VARIABLES, cutoff=0.8)
            if name in own:
                continue
            if name in TORCHRUN_VARIABLES:
                what = f"The ISC does not set {name} for the command"
                yield self._warning(what, TORCHRUN_VARIABLES[name])
            elif close and name not in VARIABLES and name not in os.environ:
                yield self._warning(f"The ISC sets no variable {name}", f"Did you mean {close}?")

    def _check_mounts(self, text: str) -> Iterator[Finding]:
        for dataset in dict.fromkeys(re.findall(r"""(?<![\w./~}-])/data/([^/\s'"$<>&|;*]+)""", text)):
            if dataset not in self.datasets:
                hint = f'Put "{dataset}" into dataset_id_list, or correct the path.'
                yield self._error(f"The dataset /data/{dataset} is not mounted", hint)

    def _error(self, what: str, hint: str) -> Finding:
        return Finding(self.where, what, hint)

    def _warning(self, what: str, hint: str) -> Finding:
        return Finding(self.where, what, hint, "warning")


def _starts_training(words: Sequence[str], place: int) -> bool:
    """Whether what comes after a word of a program's are arguments of train.py."""
    if PurePosixPath(words[place]).name in SCRIPTS:
        return True
    program, before = PurePosixPath(words[0]).name, words[1:place]
    is_launcher = program in MODULES.values() or PYTHON.fullmatch(program)
    if words[place] != MODULE or not is_launcher or not before or not AS_MODULE.fullmatch(before[-1]):
        return False
    # A program that was named before has the rest for itself.
    named = [after for word, after in pairwise(before) if AS_MODULE.fullmatch(word)]
    return MODULES.keys() >= set(named) and not any(word.endswith(".py") for word in before)
