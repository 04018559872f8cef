"""Windows itself is refused at once, in one line, by whatever is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
# What a Python on Windows lacks is taken away, after what only asks for it at its import was imported.
WINDOWS = """
import asyncio, importlib.util, json, logging, multiprocessing, platform, runpy, shutil, signal, subprocess
import sys, tempfile, uuid
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGHUP", "SIGQUIT", "SIGKILL"):
    delattr(signal, name)
sys.platform = "win32"
sys.path.insert(0, ".")
sys.argv = sys.argv[1:]
if sys.argv[0] == "train.py":
    runpy.run_path("train.py", run_name="__main__")
else:
    runpy.run_module("isc_runtime", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["train.py"],
        ["isc_runtime", "check"],
        ["isc_runtime", "checkpoints"],
        ["isc_runtime", "export", "checkpoints", "weights.safetensors"],
        ["isc_runtime", "preflight"],
        ["isc_runtime", "rehearse", "--stand-in"],
    ],
    ids=" ".join,
)
def test_windows_itself_is_refused_in_one_line(command: list[str]) -> None:
    started = [sys.executable, "-B", "-c", WINDOWS, *command]
    result = subprocess.run(started, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr == (
        "ERROR: This is Windows itself. Run it in WSL 2: its Linux is what this is made for.\n"
    )
