"""What GPUs this machine offers and what this torch needs of them, found out before torch is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from isc_runtime.errors import IscError

PROC = Path("/proc/driver/nvidia/version")  # says the version of the driver; not in WSL
SHARED_MEMORY, LEAST_SHARED_MEMORY = Path("/dev/shm"), 512 * 2**20
COMPATIBILITY = "/usr/local/cuda*/compat/libcuda.so*"  # NVIDIA's way to run a newer CUDA on an older driver
# The oldest driver for each CUDA (https://docs.nvidia.com/deploy/cuda-compatibility/, minor versions).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# The oldest driver for the CUDA of each build of torch that `make lock TORCH=` knows.
BUILDS = {"cu130": 580, "cu128": 570, "cu126": 525}
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
            f"Run make lock TORCH={_build_for(driver)}, and build the image anew; --device cpu trains "
            "without GPUs, slowly.",
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
            f"Run make lock TORCH={_build_for(driver)}, and build the image anew; or let whoever "
            "runs the node renew the driver.",
        )


def story() -> str:
    """What the driver offers and what this torch needs, in one line."""
    return f"driver: {driver_version() or 'none'}, torch is built for CUDA: {cuda_of_torch() or 'no'}"


def small_shared_memory() -> str:
    """What to do about a /dev/shm that may be too small for the ranks of a node; empty if it is not.

    Containers have 64 MB by default, and NCCL takes about 10 MB for each pair of ranks (read, and not seen).
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return ""
    size = found.f_frsize * found.f_blocks
    if size >= LEAST_SHARED_MEMORY:
        return ""
    return (
        f"{SHARED_MEMORY} has {size // 2**20} MB: NCCL and data-loading workers may need more. Start the "
        "container with --shm-size=1g or --ipc=host"
    )


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


def _build_for(driver: str) -> str:
    """The newest build of torch that works with a driver; without one, the oldest."""
    builds = (build for build, oldest in BUILDS.items() if driver and _major(driver) >= oldest)
    return next(builds, list(BUILDS)[-1])


def _major(version: str) -> int:
    return int(version.partition(".")[0])
