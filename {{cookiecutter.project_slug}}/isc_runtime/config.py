"""Options from a file: `--config FILE.toml`, or train.toml beside train.py. The command line wins.

What a file says becomes words in front of those of the command line. So each value is checked as there, and
counts as asked for in a checkpoint.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from isc_runtime.answering import answering
from isc_runtime.errors import IscError
from isc_runtime.option_values import positive_float
from isc_runtime.spelling import meant
from isc_runtime.text_files import read_text
from isc_runtime.toml import load_toml

OPTION = "--config"
PRINT = "--print-config"
NOT_IN_FILES = {OPTION, PRINT, "--help"}
PLAIN = (bool, int, float, str)
LARGEST = 2**63 - 1


class ConfigError(ValueError):
    """What is wrong with a config file, in words for a person."""


class _One(argparse.ArgumentParser):
    """Judges a single option."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --print-config."""
    group = parser.add_argument_group("configuration")
    group.add_argument(OPTION, metavar="FILE.toml", help="options, otherwise those of train.toml")
    group.add_argument(PRINT, action="store_true", help="print all options as such a file, and end")


def expanded(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The words of a command line, and before them those of its config file, if the parser has --config."""
    actions = parser._option_string_actions
    if OPTION not in actions or not (
        file := config_file(words, Path(sys.argv[0] or "train.py").with_suffix(".toml"))
    ):
        return list(words)
    try:
        return [*words_of(file, actions), *words]
    except ConfigError as error:
        parser.error(str(error))


def take_out(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, written: Mapping[str, str]
) -> set[str]:
    """Removes the two options, which are no settings of a training; prints all others if that was asked for.

    Args:
        parser: which ends the program after printing.
        arguments: as parsed.
        written: the options that are written otherwise than they are held.

    Returns:
        the names that were removed.
    """
    names = {option[2:].replace("-", "_") for option in (OPTION, PRINT)}
    taken = {name: vars(arguments).pop(name, None) for name in names}
    if taken["print_config"]:
        _print(parser, as_toml({**vars(arguments), **written}))
    return names


def _print(parser: argparse.ArgumentParser, text: str) -> None:
    """Prints a file, and ends the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # TOML has no other one
    is_read = False
    try:
        with answering():
            print(text)
            is_read = True
    except IscError as error:
        parser.exit(error.exit_code, f"ERROR: {error}\n")
    parser.exit(0 if is_read else 128 + signal.SIGPIPE)


def config_file(command_line: Sequence[str], beside: Path) -> Path | None:
    """The file whose options hold: the one that is named, else `beside` if there is anything of that name."""
    named = None
    for word, after in zip(command_line, [*command_line, ""][1:], strict=True):
        if word.partition("=")[0] == OPTION:
            named = word.partition("=")[2] or after
    return Path(named) if named is not None else beside if os.path.lexists(beside) else None


def words_of(file: Path, actions: Mapping[str, argparse.Action] | None = None) -> list[str]:
    """What a file says, as words of a command line.

    Args:
        file: TOML, option = value.
        actions: of the parser, by option; each value is judged. None takes all as they are.

    Raises:
        ConfigError: it cannot be read, or the parser would not take it.
    """
    try:
        table = load_toml(read_text(file))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{file} cannot be read ({' '.join(str(error).split())})") from error
    words: list[str] = []
    options: set[str] = set()
    for key, value in table.items():
        option = f"--{key.replace('_', '-')}"
        try:
            if option in options:
                raise ConfigError(f"{option[2:]} is there twice, with - and with _")
            options.add(option)
            words += _words(option, value, actions)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error
    return words


def _words(option: str, value: Any, actions: Mapping[str, argparse.Action] | None) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, PLAIN) for one in values):
        raise ConfigError(f"{option[2:]} must be a string, a number, true or false, or a list of such")
    if any("\0" in one for one in values if isinstance(one, str)):
        raise ConfigError(f"{option[2:]} holds a zero byte, which no name of a file may have")
    if actions is not None and (option not in actions or option in NOT_IN_FILES):
        close = meant(option, actions)[2:]
        raise ConfigError(f"there is no option {option[2:]}" + (f"; did you mean {close}?" if close else ""))
    if isinstance(value, bool):
        if not value and actions is not None and actions[option].nargs != 0:  # it would count for nothing
            raise ConfigError(f"{option[2:]} takes a value, not false; leave it out for its default")
        negative = f"--no-{option[2:]}"
        words = [option] if value else [negative] if actions and negative in actions else []
    elif isinstance(value, list):
        words = [option, *map(str, value)]
    else:
        words = [f"{option}={value}"]  # so that a negative number is no option
    if actions is not None and words:
        single = _One(add_help=False, allow_abbrev=False)
        single._add_action(actions[option])  # argparse has no public way to ask for one option
        single.parse_args(words)
    return words


def seconds_in(words: Sequence[str], option: str, default: float) -> float:
    """An option of a training, for whoever starts it: as its command line says, or its config file.

    Args:
        words: the script, its arguments, and others that nobody knows here.
        option: of a number of seconds.
        default: if neither says it, or what they say is wrong: the training itself tells that.
    """
    script = next((Path(word) for word in words if word.endswith(".py")), Path("train.py"))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(option, dest="seconds", type=positive_float, default=default)
    try:
        file = config_file(words, script.with_suffix(".toml"))
        both = [*(words_of(file) if file else []), *words]
        return float(parser.parse_known_args(both)[0].seconds)
    except (argparse.ArgumentError, ConfigError):
        return default


def as_toml(values: Mapping[str, Any]) -> str:
    """Options as a config file has them; those without a value are comments."""
    lines = []
    for name, value in sorted(values.items()):
        key = name.replace("_", "-")
        if value is None:
            lines.append(f"# {key} =")
        elif isinstance(value, list | tuple):
            lines.append(f"{key} = {json.dumps([*map(plain, value)], ensure_ascii=False)}")
        else:
            lines.append(f"{key} = {json.dumps(plain(value), ensure_ascii=False)}")
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """A setting as JSON and TOML can write it: not what is not finite, nor what 64 bits do not hold."""
    is_known = type(value) in PLAIN
    if isinstance(value, float):
        is_known &= math.isfinite(value)
    elif isinstance(value, int):
        is_known &= -LARGEST <= value <= LARGEST
    return value if value is None or is_known else str(value)
