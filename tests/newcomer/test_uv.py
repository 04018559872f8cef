"""A newcomer with uv, and with nothing else: no pip is in the environments that it makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from readmes import gigabytes, in_words_of, stated

from baking import BIN, ROOT, Bake, words_of
from empty_machine import HOME, MISSING, EmptyMachine, debian
from host_pip import settings

FOLDERS = settings().get("find-links", [])  # uv does not read pip's configuration


@pytest.fixture
def project(bake: Bake) -> Path:
    return bake()


def uv(project: Path, *command: str, **variables: str) -> str:
    """What a command says, with uv on the PATH and no environment active; it has to succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "UV_PYTHON": sys.executable, **variables}
    return words_of(command, project, environment)


def locked(project: Path) -> str:
    """The version of rich in uv.lock."""
    found = re.search(r'^name = "rich"\nversion = "(.*)"', (project / "uv.lock").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.skipif(bool(MISSING), reason=f"no empty machine without {', '.join(MISSING)}")
def test_from_nothing_but_uv_to_a_rehearsed_project(tmp_path: Path) -> None:
    """The READMEs' lines for uv. Debian's python3, bare, stands for the one that uv would fetch."""
    machine = EmptyMachine(tmp_path / "root", debian("bookworm"))
    machine.as_root("apt install --no-install-recommends git make python3")
    for name in ("uv", "uvx"):
        machine.mount(BIN / name, f"/usr/local/bin/{name}")
    create = in_words_of(ROOT / "README.md", "uvx cruft create ", machine.serve(ROOT))
    enters = "printf '%.0s\\n' {1..50} | "  # Enter is a good answer to each question
    machine.follow([f"{enters}{create}"])
    project = f"{HOME}/isc-experiment"
    readme = machine.path(project) / "README.md"
    lines = ["uv sync", "make lock", "uv run train.py", "uv run python -m isc_runtime rehearse --stand-in"]
    assert all(f"`{line}`" in readme.read_text() for line in lines)
    said = machine.follow(lines, project)  # with torch for CUDA, as on anybody's Linux: 3 GB
    assert "Training is complete" in said
    assert "Ready to submit: interrupted 2 times, its final weights are bit for bit those of" in said
    installed = machine.path(project) / ".venv"
    assert not list(installed.glob("lib/python*/site-packages/pip")), "or this shows nothing"
    taken = gigabytes(installed)
    print(f"a project, for CUDA: {taken:.2f} GB")
    assert taken == pytest.approx(stated(readme, r"or ([\d.]+) GB with CUDA"), rel=0.15)
    machine.remove()


def test_make_setup_in_an_environment_without_pip(project: Path) -> None:
    uv(project, "uv", "venv", "--quiet")
    wheels = {"CPU_WHEELS": " ".join(f"--find-links {folder}" for folder in FOLDERS)} if FOLDERS else {}
    assert "torch for CPU: about" in uv(project, "make", "setup", "TORCH=cpu", **wheels)
    assert "Training is complete" in uv(project, "make", "train", **wheels)


def test_the_image_s_lock_is_made_from_uv_s(project: Path) -> None:
    """Both are one resolution: check says when they differ, make lock ends that."""
    python = f"PYTHON={sys.executable}"
    uv(project, "uv", "lock", "--quiet")
    uv(project, "uv", "lock", "--quiet", "--upgrade-package", f"rich<{locked(project)}")
    ended = subprocess.run(
        [sys.executable, "-m", "isc_runtime", "check"], cwd=project, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert re.search(r"requirements\.lock: .* in uv\.lock.* Run: make lock", ended.stdout)
    uv(project, "make", "lock", python)
    lock = project / "requirements.lock"
    assert f"rich=={locked(project)} " in lock.read_text()
    assert "No errors" in uv(project, "make", "check", python)
    assert "http" not in lock.read_text(), "whoever installs it has an index of their own"
