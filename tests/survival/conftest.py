"""Bakes one project, and makes its isc_runtime the one that these tests import and break."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOAK = int(os.environ.get("SOAK", "1"))  # how many times as many trials


def bake() -> Path:
    """The project that `--no-input` gives, in a directory that is there as long as this process."""
    directory = tempfile.mkdtemp(prefix="survival-")
    atexit.register(shutil.rmtree, directory)
    command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input", "--output-dir", directory]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # its next steps are for nobody here
    return next(Path(directory).iterdir())


PROJECT = bake()
sys.path[:0] = [str(PROJECT), str(Path(__file__).parent)]

from isc_runtime.tests import cycling_utils_choice  # noqa: E402  # the baked project's

CHOSEN = cycling_utils_choice.install()
