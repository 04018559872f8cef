"""Is a command one that a shell runs as it was meant, once the ISC has joined its lines?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from isc_runtime.submission.command.shell import SHELLS, SimpleCommand, comment_at, joined, split
from isc_runtime.submission.finding import Finding

# They may come before a training, and none of them is one.
PREPARATIONS = frozenset(
    {
        *("", ".", ":", "[", "cat", "cd", "chmod", "cp", "date", "echo", "env", "export", "hostname", "ls"),
        *("mkdir", "nvidia-smi", "popd", "printf", "pushd", "pwd", "rm", "set", "sleep", "source", "test"),
        *("true", "ulimit", "unset", "which", "basename", "dirname", "readlink", "realpath"),
    }
)
WITH_ONE_ARGUMENT = frozenset({".", "cd", "source"})
# Where a line begins with one of these, a command is meant to begin.
_BEGINNINGS = (PREPARATIONS - {"", "[", ".", ":"}) | SHELLS
_BEGINNINGS |= {"accelerate", "conda", "deepspeed", "do", "done", "else", "exec", "fi", "for", "if", "isc"}
# What only belongs to the form of `if`, `for`, `while`, `case` or a group.
_FORMS = frozenset({"do", "done", "elif", "else", "esac", "fi", "then", "}"})
_BEGINNINGS |= {"isc_run", "mpirun", "nohup", "pip", "pip3", "python", "python3", "srun", "then", "torchrun"}


def check_form(command: str, where: str) -> Iterator[Finding]:
    """What is wrong with the lines, the operators and the comments of a command.

    Args:
        command: with its line breaks, and with all its quotes closed.
        where: the place in the launch file.
    """
    text = joined(command)
    for first in _broken_lines(command).values():
        what = f"The line break before {first!r} becomes a blank: no command begins there"
        yield Finding(where, what, "Write && at the end of the line before it.")
    if (start := comment_at(text)) is not None:
        yield _comment(command, start, where)
    yield from _check_operators(split(as_meant(command)), where)


def check_chain(simple_commands: Sequence[SimpleCommand], where: str) -> Iterator[Finding]:
    """Operators by which a command goes on after a failure, and ends with 0 all the same, once each.

    Args:
        simple_commands: of it.
        where: the place in the launch file.
    """
    stops, fails_in_pipes, said = False, False, {""}
    for simple in simple_commands:
        operator = simple.operator.strip("()")
        first = simple.words[0] if simple.words else ""
        is_form = first in _FORMS or operator == ";;"
        is_right = (operator == ";" and stops) or (operator == "|" and fails_in_pipes)
        is_right |= operator == "||" and simple.program in ("exit", "false", "return")
        if simple.words and operator not in said | {"&&"} and not (is_form or is_right):
            said.add(operator)
            what = f"The command goes on after a failure, because of {operator!r}"
            hint = "Chain with &&, so that the experiment fails when something does."
            yield Finding(where, what, hint, "warning")
        if simple.program == "set":
            stops |= any(re.fullmatch(r"-\w*e\w*|errexit", word) for word in simple.arguments)
            fails_in_pipes |= "pipefail" in simple.arguments


def as_meant(command: str) -> str:
    """A command in one line, without the faults that `check_form` finds in its lines: to look for others."""
    broken = _broken_lines(command)
    text = ""
    for number, line in enumerate(command.split("\n")):
        text += (" && " if number in broken else " ") + line[: comment_at(line)]
    try:
        split(text)
    except ValueError:  # what looked like a comment in its line was within quotes
        return joined(command)
    return text.strip()


def _broken_lines(command: str) -> dict[int, str]:
    """The lines that were meant to begin a command, though their line breaks are blanks: the first words."""
    before: tuple[str, ...] = ()  # what the simple command that is not complete yet consists of
    broken: dict[int, str] = {}
    for number, line in enumerate(command.split("\n")):
        try:
            parts = split(line[: comment_at(line)])
        except ValueError:  # a quote that goes on in the next line
            return broken
        first = next(iter(parts[0].words), "")
        if _is_complete(before, first):
            broken[number] = first
            before = ()
        before = parts[-1].words if len(parts) > 1 else (*before[:10], *parts[0].words)
    return broken


def _is_complete(before: Sequence[str], first: str) -> bool:
    """Whether a line that begins with a word was meant to begin a command, after what came before it."""
    simple = SimpleCommand("", tuple(before))
    if not simple.program or not first:
        return False  # nothing but `A=1`, or an operator: a command may begin here
    if simple.program in WITH_ONE_ARGUMENT:
        return bool(simple.arguments)
    return first in _BEGINNINGS and before[-1] != "--no-python"


def _check_operators(simple_commands: list[SimpleCommand], where: str) -> Iterator[Finding]:
    """Each must have a command on both of its sides."""
    following = [*(simple.operator for simple in simple_commands[1:]), ""]
    for simple, after in zip(simple_commands, following, strict=True):
        is_end = not after and simple.operator in ("", ";", "&")
        if not (simple.words or is_end or simple.operator.endswith(")") or after.startswith("(")):
            what = f"A command is missing beside {after or simple.operator!r}"
            yield Finding(where, what, "Complete it, or delete what is too much.")
            return
    last = simple_commands[-1]
    if last.operator.strip("()") == "&" and not last.words:
        what = "The '&' at the end leaves the training in the background, and the command ends at once"
        yield Finding(where, what, "Delete it: the experiment ends when its command does.")


def _comment(command: str, start: int, where: str) -> Finding:
    kept, cut = command.strip()[:start], command.strip()[start:]
    if not kept or "\n" in cut or re.search(r"&&|launch\.sh|train\.py", cut):
        what = "The '#' makes a comment of all that comes after it, of the following lines, too"
        return Finding(where, what, "Delete the comment, or write it above the command.")
    hint = "Delete it, or quote it if it is part of an argument."
    return Finding(where, "The '#' makes a comment of all that comes after it", hint, "warning")
