"""TOML, read by what there is: tomllib since Python 3.11, before that tomli, or the copy that pip has."""

from __future__ import annotations

import importlib
from typing import Any

MOST_BITS = 1000  # of an integer: more is no setting of anything, and Python would refuse to write it out
NO_TOML = "this Python has neither tomllib nor tomli"


def load_toml(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: it is not TOML, begins with a byte order mark, is nested too deep, or has an integer of
            more than MOST_BITS.
        ImportError: Python is older than 3.11, and has neither tomli nor pip.
    """
    if text.startswith("\ufeff"):  # nobody can see what is wrong at line 1, column 1
        raise ValueError("it begins with a byte order mark; save it as UTF-8 without one")
    for name in ("tomllib", "tomli", "pip._vendor.tomli"):
        try:
            parser = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        try:
            values: dict[str, Any] = parser.loads(text)
            _check_integers(values)
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        return values
    raise ImportError(NO_TOML)


def _check_integers(value: Any, name: str = "") -> None:
    """Raises ValueError for an integer that no message could name."""
    if isinstance(value, dict):
        for key, part in value.items():
            _check_integers(part, key)
    elif isinstance(value, list):
        for part in value:
            _check_integers(part, name)
    elif isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError(f"{name} is an integer of {value.bit_length()} bits, too long a one")
