"""Files that are only added to, whatever has happened to their last line."""

from __future__ import annotations

import os
from pathlib import Path

from isc_runtime.submission.journal import append, entries


def test_lines_are_added(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    assert entries(file) == []
    append(file, {"a": "é\udcff\n"})
    append(file, {"b": 2})
    assert [*entries(file)[0]] == ["a"]
    assert entries(file)[1] == {"b": 2}
    assert file.read_bytes().count(b"\n") == 2


def test_what_a_power_cut_left_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a": 1}\n[1]\n\xff\n' + b"[" * 100_000 + b'\n{"b": ')
    append(file, {"c": 3})
    assert entries(file) == [{"a": 1}, {"c": 3}]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    assert entries(tmp_path / "x.jsonl") == []
