"""`make setup`: installs what pyproject.toml names into this Python. Standard library only: there is no more.

pip does it, or uv where there is no pip, as in an environment that uv has made. The versions are those of
requirements.lock, so that a laptop runs what the image holds.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from isc_runtime.errors import IscError
from isc_runtime.submission.lock import LOCK, NEEDED
from isc_runtime.submission.logical_lines import logical_lines
from isc_runtime.text_files import read_text
from isc_runtime.toml import load_toml

BUILDS = ("auto", "cpu", "cuda", "cu126", "cu128", "cu130")  # cuda is that of PyPI
INDEX = "https://download.pytorch.org/whl/"  # and the build's name
CPU_WHEELS = ("--extra-index-url", f"{INDEX}cpu")
GROUP = "dev"
# Of Linux, for torch 2.13: what pip downloads, and what it takes on the disk. Measured, with all the rest.
SIZES = {"cpu": "0.4 GB to download, 1.6 GB on the disk", "cuda": "3 GB to download, 5.5 GB on the disk"}


def install(root: Path, torch: str, cpu_wheels: Sequence[str] = (), extras: str = "") -> int:
    """Installs what the project and its tests need, and returns the installer's exit code.

    Args:
        root: the project.
        torch: which build of it, one of `BUILDS`.
        cpu_wheels: options of pip that say where the CPU builds are; none for PyTorch's own index.
        extras: names in `[project.optional-dependencies]`, with commas between.

    Raises:
        IscError: pyproject.toml cannot be read, there is neither pip nor uv, or no such build.
    """
    requirements = _requirements(root, extras)
    build = torch_build(torch, build_of(root / LOCK))
    print(_announcement(build, requirements), flush=True)
    options = () if sys.platform == "darwin" else _wheels(build, cpu_wheels)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "versions.txt"
        constraints.write_text("".join(f"{line}\n" for line in pinned(root / LOCK)), encoding="utf-8")
        command = [*_installer(options), *options, "--constraint", str(constraints), *requirements]
        return subprocess.run(command, cwd=root, check=False).returncode


def torch_build(asked: str, locked: str = "cuda") -> str:
    """The build of torch to install: as asked, else that of the lock if there is a GPU, else the CPU's.

    Raises:
        IscError: there is none here.
    """
    if sys.platform == "darwin" and asked.startswith("cu"):
        raise IscError("There is no CUDA build of torch for macOS", hint="Leave TORCH out.")
    has_gpu = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    return asked if asked != "auto" else locked if has_gpu else "cpu"


def build_of(lock: Path) -> str:
    """The build of torch that a lock is for, and so the image, as `make lock TORCH=` was told."""
    found = re.search(
        r"^torch==[^\s+]+\+(\w+)", "\n".join(line for _, line in logical_lines(lock)), re.MULTILINE
    )
    return found[1] if found else "cuda"


def _wheels(build: str, cpu_wheels: Sequence[str]) -> Sequence[str]:
    """Options of pip that say where a build is."""
    if build == "cpu":
        return cpu_wheels or CPU_WHEELS
    return () if build == "cuda" else ("--extra-index-url", f"{INDEX}{build}")


def pinned(lock: Path) -> list[str]:
    """The requirements of a lock: without hashes, which would be asked of everything else, too, and without
    the names of builds, because another one may be wanted here.
    """
    lines = (re.sub(r"\s*--hash=\S+", "", line) for _, line in logical_lines(lock))
    return [re.sub(r"(==[^\s;+]+)\+[\w.]+", r"\1", line) for line in lines if not line.startswith("-")]


def _requirements(root: Path, extras: str) -> list[str]:
    try:
        table: dict[str, Any] = load_toml(read_text(root / NEEDED))
        optional = table["project"].get("optional-dependencies", {})
        names = [name.strip() for name in extras.split(",") if name.strip()]
        if unknown := [name for name in names if name not in optional]:
            there = f"It has {', '.join(optional) or 'none'}."
            raise IscError(f"It has no extra {unknown[0]}", root / NEEDED, there)
        more = [requirement for name in names for requirement in optional[name]]
        return [*table["project"]["dependencies"], *table["dependency-groups"][GROUP], *more]
    except ImportError as error:
        hint = "Install tomli first (uv pip install tomli), or use Python 3.11 or newer."
        raise IscError(str(error), sys.executable, hint) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        hint = f"It must have dependencies in [project], and {GROUP} in [dependency-groups]."
        raise IscError(f"It cannot be read ({error})", root / NEEDED, hint) from error


def _announcement(build: str, requirements: Sequence[str]) -> str:
    """What comes, and how large it is, said before it does."""
    wanted = next((line.partition("==")[2] for line in requirements if line.startswith("torch==")), "")
    try:
        there = metadata.version("torch")
    except metadata.PackageNotFoundError:
        there = ""
    if there and there.partition("+")[0] == wanted:
        return f"torch {there} is here already, and stays. For another build uninstall it first."
    if sys.platform == "darwin":
        return "Installing torch for macOS; there is one build, for CPU and MPS."
    other = "cuda" if build == "cpu" else "cpu"
    comes = f"Installing torch for {build.upper()}: about {SIZES['cpu' if build == 'cpu' else 'cuda']}"
    return f"{comes}. For the other one: make setup TORCH={other}"


def _installer(options: Sequence[str]) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [shutil.which("uv") or ""]
    if not uv[-1]:
        hint = "Install uv, or pip: python3 -m ensurepip"
        raise IscError("This Python has neither pip nor uv", sys.executable, hint)
    # Where two places have a package uv looks at the first one only, unless it is told to compare.
    strategy = ["--index-strategy", "unsafe-best-match"] if options else []
    return [*uv, "pip", "install", "--python", sys.executable, *strategy]
