"""TOML is read on every Python that the project is for, with what is there."""

from __future__ import annotations

import sys
import types

import pytest

from isc_runtime.toml import load_toml

TEXT = "a = 1\n[b]\nc = ['x']\n"


@pytest.mark.parametrize("there", ["tomllib", "tomli", "pip._vendor.tomli"])
def test_whichever_parser_there_is(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before make setup a Python 3.10 has only the one that pip brings along."""
    for name in ("tomllib", "tomli", "pip._vendor.tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    parser = types.SimpleNamespace(loads=lambda text: {"read by": there})
    monkeypatch.setitem(sys.modules, there, parser)
    assert load_toml(TEXT) == {"read by": there}


def test_what_is_no_toml() -> None:
    assert load_toml(TEXT) == {"a": 1, "b": {"c": ["x"]}}
    with pytest.raises(ValueError, match="b is an integer of 20000 bits, too long a one"):
        load_toml(f"a = [1]\n[c]\nb = [[0x{'f' * 5000}]]")
    for text in ("a = =", "a = " + "[" * 100_000):
        with pytest.raises(ValueError, match=r"line 1|nested too deep"):
            load_toml(text)
