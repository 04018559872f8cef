"""What GPUs this machine offers and what this torch needs of them, found out before torch is imported."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

from isc_runtime.errors import IscError

PROC = Path("/proc/driver/nvidia/version")  # says the version of the driver; not in WSL
COMPATIBILITY = "/usr/local/cuda*/compat/libcuda.so*"  # NVIDIA's way to run a newer CUDA on an older driver
# The oldest driver for each CUDA (https://docs.nvidia.com/deploy/cuda-compatibility/, minor versions).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
INSTALL = "Name a torch for it in pyproject.toml, run make lock, and build the image anew"
NO_DRIVER = (
    "Start the container with its GPUs, or take a node that has some; --device cpu trains without, slowly."
)


def require_gpus(asked: str) -> None:
    """Makes sure that this torch can use the GPUs of this machine, as far as files tell.

    Args:
        asked: who wants them, for the message.

    Raises:
        IscError: there is no driver, it is too old for this torch, or this torch is built for CPUs.
    """
    needed, driver = cuda_of_torch(), driver_version()
    if needed is None:
        raise IscError(
            f"This torch was built without CUDA, and {asked} needs a GPU for each rank",
            "torch/version.py",
            f"{INSTALL}; --device cpu trains without GPUs, slowly.",
        )
    if not driver:
        raise IscError(
            f"There is no NVIDIA driver here, and {asked} needs a GPU for each rank", str(PROC), NO_DRIVER
        )
    oldest = OLDEST_DRIVER.get(_major(needed), 0)
    if _major(driver) < oldest and not any(Path("/").glob(COMPATIBILITY.lstrip("/"))):
        offered = max((cuda for cuda, least in OLDEST_DRIVER.items() if least <= _major(driver)), default=0)
        what = f"The NVIDIA driver offers CUDA {offered or 'older than 11'}, and this torch needs {needed}"
        raise IscError(
            f"{what}, driver {oldest} or newer",
            f"driver {driver}",
            f"{INSTALL} (a wheel for CUDA {offered or '11'}); or let whoever runs the node renew the driver.",
        )


def story() -> str:
    """What the driver offers and what this torch needs, in one line."""
    return f"driver: {driver_version() or 'none'}, torch is built for CUDA: {cuda_of_torch() or 'no'}"


def driver_version() -> str:
    """The version of the NVIDIA driver; empty where there is none."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", PROC.read_text())
    except (OSError, ValueError):
        found = None
    if found:
        return found[1]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.match(r"\d+(?:\.\d+)+", said)
    return found[0] if found else ""


def cuda_of_torch() -> str | None:
    """The version of CUDA, or of ROCm, that the installed torch was built for; None of one for CPUs."""
    found = importlib.util.find_spec("torch")
    assert found is not None, "it was looked for before"
    assert found.origin is not None
    source = Path(found.origin).with_name("version.py").read_text()
    built = re.search(r"^(?:cuda|hip)\b[^=]*= '(\d[^']*)'", source, re.MULTILINE)
    return built[1] if built else None


def _major(version: str) -> int:
    return int(version.partition(".")[0])
