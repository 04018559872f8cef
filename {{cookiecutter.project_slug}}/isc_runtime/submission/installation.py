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

BUILDS = ("auto", "cpu", "cuda")
CPU_WHEELS = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")
GROUP = "dev"
# Of Linux, for torch 2.13: what pip downloads, and what it takes on the disk. Measured, with all the rest.
SIZES = {"cpu": "0.4 GB to download, 1.6 GB on the disk", "cuda": "3 GB to download, 6 GB on the disk"}


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
    build = torch_build(torch)
    print(_announcement(build, requirements), flush=True)
    options = (cpu_wheels or CPU_WHEELS) if build == "cpu" and sys.platform != "darwin" else ()
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "versions.txt"
        constraints.write_text("".join(f"{line}\n" for line in pinned(root / LOCK)), encoding="utf-8")
        command = [*_installer(options), *options, "--constraint", str(constraints), *requirements]
        return subprocess.run(command, cwd=root, check=False).returncode


def torch_build(asked: str) -> str:
    """The build of torch to install: "cpu" or "cuda". Raises IscError if there is none here."""
    if sys.platform == "darwin" and asked == "cuda":
        raise IscError("There is no CUDA build of torch for macOS", hint="Leave TORCH out.")
    has_gpu = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    return asked if asked != "auto" else "cuda" if has_gpu else "cpu"


def pinned(lock: Path) -> list[str]:
    """The lines of a lock without their hashes, which would be asked of everything else, too."""
    return [re.sub(r"\s*--hash=\S+", "", line) for _, line in logical_lines(lock)]


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
    other = "cpu" if build == "cuda" else "cuda"
    comes = f"Installing torch for {build.upper()}: about {SIZES[build]}"
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
