"""A newcomer with a Mac's constraints, as far as Linux can have them; a real one is tried on GitHub.

Python says that it is on a Mac, so processes are spawned and nothing of Linux is asked for, and there
is no /proc.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from baking import ROOT, Bake, words_of

# Modules that would look for parts of a real Mac when they are imported are imported before.
PRETENCE = """
import asyncio, ctypes.util, platform, socket, subprocess, sys, sysconfig, tempfile
import urllib.request, webbrowser
sysconfig.get_config_vars()
sys.platform = "darwin"
"""
LINES = [
    "make help",
    "python train.py --epochs 1",
    "torchrun --nproc-per-node=2 train.py --epochs 2",
    "python -m isc_runtime check",
    "make rehearse",
]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="hiding /proc needs root")
def test_from_an_environment_to_a_rehearsed_project(bake: Bake, tmp_path: Path) -> None:
    project, venv = bake(), tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (tmp_path / "pretence").mkdir()
    (tmp_path / "pretence" / "a_mac.py").write_text(PRETENCE)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    ours = sysconfig.get_path("purelib")
    (packages / "a_mac.pth").write_text(f"{ours}\n{tmp_path / 'pretence'}\nimport a_mac\n")
    (venv / "bin" / "torchrun").write_text(
        f"#!{venv}/bin/python\nfrom torch.distributed.run import main\nmain()\n"
    )
    (venv / "bin" / "torchrun").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VIRTUAL_ENV": str(venv), "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
    lines = ["mount -t tmpfs none /proc", f"cd {shlex.quote(str(project))}", *LINES]
    outside = ["unshare", "--mount", "--propagation=private", "bash", "-ec", "\n".join(lines)]
    said = words_of(outside, ROOT, environment)
    assert said.count("Training is complete") == 2
    assert "Ready to submit: interrupted 2 times, its final weights are bit for bit those of" in said
