"""What options take, checked: numbers, paths, each a `type=` of argparse; options that belong together."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def path(text: str) -> Path:
    """A path that is not empty: else it would be the current folder. Raises ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty (a variable that is not set?)")
    return Path(text)


def positive(text: str) -> int:
    """A whole number, 1 or more. Raises ArgumentTypeError."""
    return _number(text, 1)


def not_negative(text: str) -> int:
    """A whole number, 0 or more. Raises ArgumentTypeError."""
    return _number(text, 0)


def positive_float(text: str) -> float:
    """A finite number above 0. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def not_negative_float(text: str) -> float:
    """A finite number, 0 or more. Raises ArgumentTypeError."""
    return 0.0 if text in ("0", "0.0") else positive_float(text)


def seed(text: str) -> int:
    """A whole number from 0 to 2**32 - 1, which every generator takes. Raises ArgumentTypeError."""
    if _number(text, 0) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is larger than {2**32 - 1}")
    return int(text)


def _number(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


class Options:
    """Options that belong together: a dataclass whose fields are called as in the parsed arguments."""

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        """Picks them from the parsed arguments; what was not given there is as by default."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # it is a dataclass
        given = {name: getattr(arguments, name, None) for name in names}
        return cls(**{name: value for name, value in given.items() if value is not None})
