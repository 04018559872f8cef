"""TOML, read by what there is: tomllib since Python 3.11, before that tomli, or the copy that pip has."""

from __future__ import annotations

import importlib
from typing import Any

NO_TOML = "this Python has neither tomllib nor tomli"


def load_toml(text: str) -> dict[str, Any]:
    """Parses TOML.

    Raises:
        ValueError: it is not TOML, begins with a byte order mark, or is nested too deep.
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
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
        return values
    raise ImportError(NO_TOML)
