"""A command line, read as a shell would read it, and not run.

The ISC joins the lines of a command by a blank: 17 of the 18 launch files in
https://github.com/StrongResearch/isc-demos need it, and so does the example in its documentation.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

SHELLS = frozenset({"bash", "sh", "dash", "zsh"})
# They run the words that come after them, and their own options.
_WRAPPERS = frozenset(
    {
        *(
            "builtin",
            "command",
            "env",
            "exec",
            "nice",
            "nohup",
            "numactl",
            "setsid",
            "stdbuf",
            "sudo",
            "time",
        ),
        *("!", "{", "do", "else", "if", "then", "timeout", "until", "while"),
    }
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_WITH_VALUE = frozenset({"-C", "--chdir", "-a", "-o", "-s", "--signal", "-u", "--unset"})  # of these
_COMMENT = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|(?P<comment>(?<![^\s;&|()])\#)""", re.DOTALL)
_QUOTED = r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\."""
_SUBSTITUTION = re.compile(rf"{_QUOTED}|(?P<begin>[$<>]\()", re.DOTALL)
_PARENTHESES = re.compile(rf"{_QUOTED}|[()]", re.DOTALL)
_DESCRIPTOR = re.compile(rf"{_QUOTED}|(?<![^\s&|;()])(?P<number>\d+)(?=[<>])", re.DOTALL)  # of `2>&1`
SUBSTITUTED = "$SUBSTITUTED"  # in the place of what a command will say


@dataclass(frozen=True)
class SimpleCommand:
    """A command without operators in it.

    Attributes:
        operator: what stands before it: `&&`, `||`, `;`, `|`, `&`, a parenthesis; "" before the first one.
        words: of it, without quotes and redirections.
        here_document: what ends the lines that it reads as a file, `EOF` of `<<EOF`; "" if it reads none.
    """

    operator: str
    words: tuple[str, ...]
    here_document: str = ""

    @property
    def start(self) -> int:
        """Where in its words the program is, after assignments and what only runs another program."""
        place, is_wrapped = 0, False
        for place, word in enumerate(self.words):
            if _ASSIGNMENT.match(word):
                continue
            if word in _WRAPPERS:
                is_wrapped = True
            elif is_wrapped and place and self.words[place - 1] in _WITH_VALUE:
                continue
            elif not (is_wrapped and re.fullmatch(r"-.*|[\d.]+[smhd]?", word)):
                return place
        return len(self.words)

    @property
    def program(self) -> str:
        """The name of what it runs, without a path; "" if it runs nothing."""
        word = self.words[self.start] if self.start < len(self.words) else ""
        return PurePosixPath(word).name or word  # "." is a program, too

    @property
    def shell_text(self) -> str | None:
        """What a shell is told to run by -c, if that is what it is told."""
        words, has_text = iter(self.arguments if self.program in SHELLS else ()), False
        for word in words:
            if not word.startswith(("-", "+")):
                return word if has_text else None
            has_text = has_text or re.fullmatch(r"-[A-Za-z]*c[A-Za-z]*", word) is not None
            if re.fullmatch(r"[-+][A-Za-z]*[oO]", word):
                next(words, None)  # -o pipefail
        return None

    @property
    def arguments(self) -> tuple[str, ...]:
        """What its program is given."""
        return self.words[self.start + 1 :]


def programs_of(commands: list[SimpleCommand]) -> set[str]:
    """The programs of commands, those within a shell's -c in its place; "" where nothing is run."""
    found = set[str]()
    for simple in commands:
        try:
            within = None if simple.shell_text is None else split(simple.shell_text)
        except ValueError:  # a quote is open: the shell runs nothing
            within = []
        found |= {simple.program} if within is None else programs_of(within)
    return found


def joined(command: str) -> str:
    """The one line that the ISC makes of a command."""
    return " ".join(command.split("\n")).strip()


def comment_at(text: str) -> int | None:
    """Where a `#` begins that makes the rest of the line a comment."""
    return next((match.start() for match in _COMMENT.finditer(text) if match["comment"]), None)


def split(text: str) -> list[SimpleCommand]:
    """The simple commands of a line.

    Raises:
        ValueError: a quote or a parenthesis is open.
    """
    text, inner = _without_substitutions(text)
    text = _DESCRIPTOR.sub(lambda match: "" if match["number"] else match[0], text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""  # "#" within a word is an ordinary character
    commands: list[tuple[str, list[str]]] = [("", [])]
    here: dict[int, str] = {}  # of commands, by their number
    is_file = False  # the next word is where a redirection goes
    is_arithmetic = False  # where << shifts a number
    for word in lexer:
        if set(word) <= set("&|;()"):
            commands.append((word, []))
            is_arithmetic = word.endswith("((") or (is_arithmetic and not word.startswith("))"))
        elif set(word) <= set("<>&|"):
            is_file = True
            if word == "<<" and not is_arithmetic:
                here[len(commands) - 1] = word
        elif is_file:
            is_file = False
            if here.get(len(commands) - 1) == "<<":
                here[len(commands) - 1] = word
        else:
            commands[-1][1].append(word)
    outer = [
        SimpleCommand(operator, _unpacked(words), here.get(number, ""))
        for number, (operator, words) in enumerate(commands)
    ]
    within = [simple for one in inner for simple in split(one) if simple.words]
    # Before the rest, as a shell runs them; nobody chains them to it.
    return [*(replace(simple, operator=simple.operator or "(") for simple in within), *outer]


def _without_substitutions(text: str) -> tuple[str, list[str]]:
    """A line with a variable for each `$(...)`, `<(...)` and `>(...)` outside of quotes, and what is in them.

    Of arithmetic, `$((...))`, nothing is run. Raises ValueError: one is open.
    """
    kept, inner, end = "", list[str](), 0
    for match in _SUBSTITUTION.finditer(text):
        if match["begin"] is None or match.start() < end:
            continue
        if (close := _closing(text, match.end())) < 0:
            raise ValueError("No closing parenthesis")
        kept += text[end : match.start()] + SUBSTITUTED
        if text[match.end() : match.end() + 1] != "(":
            inner.append(text[match.end() : close])
        end = close + 1
    return kept + text[end:], inner


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that was opened before `start` is closed; -1 if nowhere."""
    depth = 1
    for match in _PARENTHESES.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.start()
    return -1


def _unpacked(words: list[str]) -> tuple[str, ...]:
    """The words of a command, and those that `env -S` makes of one."""
    for place, word in enumerate(words[:-1]):
        if word in ("-S", "--split-string") and "env" in words[:place]:
            return (*words[:place], *shlex.split(words[place + 1]), *words[place + 2 :])
    return tuple(words)
