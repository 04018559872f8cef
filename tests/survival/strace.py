"""Deterministic misfortune: strace makes a chosen system call of one thread fail, or kills there."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MUTATING = (
    "openat,write,pwrite64,writev,fsync,fdatasync,ftruncate,rename,renameat,renameat2,symlink,symlinkat,"
    "link,linkat,mkdir,mkdirat,unlink,unlinkat,rmdir"
)

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@dataclass(frozen=True)
class Call:
    """A system call of a thread, the nth of its name since strace was attached."""

    name: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.number}: {self.text}"


def attach(thread: int, trace: Path, inject: str = "") -> subprocess.Popen[str]:
    """Attaches to one thread and returns when it is traced."""
    command = ["strace", "-y", "-p", str(thread), "-o", str(trace), "-e", f"trace={MUTATING}"]
    if inject:
        command += ["-e", f"inject={inject}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "attached" in line, line
    return process


def mutating_calls(trace: Path, directory: Path) -> list[Call]:
    """The calls in a trace that change something in `directory`."""
    counts: dict[str, int] = {}
    calls = []
    for line in trace.read_text().splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\((.*)", line)
        if not match:
            continue
        name, text = match[1], match[2]
        counts[name] = counts.get(name, 0) + 1
        changes = name != "openat" or re.search(r"O_WRONLY|O_RDWR|O_CREAT", text)
        if changes and str(directory) in text:
            calls.append(Call(name, counts[name], text[:120]))
    return calls
