"""What GPUs there are is found out without torch, and what is missing is said with what to install."""

from __future__ import annotations

import importlib.util
import os
import re
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from isc_runtime import gpus
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.processes import UNSET, Place

NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Jan  1 00:00:00 UTC 2026\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)\n"


@pytest.fixture(autouse=True)
def nothing_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a driver, with a torch whose version.py is not written yet."""
    monkeypatch.setattr(gpus, "PROC", tmp_path / "version")
    monkeypatch.setattr(gpus, "COMPATIBILITY", str(tmp_path / "compat*/libcuda.so*"))
    monkeypatch.setenv("PATH", str(tmp_path))
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


def install(directory: Path, driver: str = "", cuda: str = "None", hip: str = "None") -> None:
    """Puts a driver and a torch there."""
    if driver:
        (directory / "version").write_text(NVRM.format(driver))
    (directory / "version.py").write_text(
        f"from typing import Optional\n__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\n"
        f"hip: Optional[str] = {hip}\n"
    )


@pytest.mark.parametrize("text", [NVRM, OPEN])
def test_the_driver_is_found_in_proc(tmp_path: Path, text: str) -> None:
    assert gpus.driver_version() == ""
    (tmp_path / "version").write_text(text.format("570.86.15"))
    assert gpus.driver_version() == "570.86.15"


def test_where_there_is_no_proc_nvidia_smi_is_asked(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ntest "$1" = --query-gpu=driver_version && echo 580.65.06\n')
    program.chmod(0o755)
    assert gpus.driver_version() == "580.65.06"
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    assert gpus.driver_version() == ""


def test_what_torch_was_built_for_stands_in_its_files(tmp_path: Path) -> None:
    install(tmp_path)
    assert gpus.cuda_of_torch() is None
    install(tmp_path, cuda="'13.0'")
    assert gpus.cuda_of_torch() == "13.0"
    install(tmp_path, hip="'7.1.25'")
    assert gpus.cuda_of_torch() == "7.1.25"


def test_shared_memory_as_small_as_a_container_s_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpus, "SHARED_MEMORY", tmp_path)
    for blocks, said in ((64 * 256, f"{tmp_path} has 64 MB: .*--shm-size=1g"), (4 * 256 * 1024, "^$")):
        monkeypatch.setattr(os, "statvfs", lambda _, n=blocks: SimpleNamespace(f_frsize=4096, f_blocks=n))
        assert re.search(said, gpus.small_shared_memory())
    monkeypatch.undo()
    monkeypatch.setattr(gpus, "SHARED_MEMORY", tmp_path / "none")
    assert gpus.small_shared_memory() == ""


@pytest.mark.parametrize(
    ("driver", "cuda", "said"),
    [
        ("580.65", "None", ["built without CUDA", "Run make lock TORCH=cu130, and build"]),
        ("", "'13.0'", ["no NVIDIA driver", "container", "--device cpu"]),
        ("570.86.15", "'13.0'", ["offers CUDA 12", "needs 13.0", "driver 580", "570.86.15", "TORCH=cu128"]),
        ("535.104", "'13.0'", ["offers CUDA 12", "Run make lock TORCH=cu126, and build the image anew"]),
        ("418.1", "'12.8'", ["older than 11", "needs 12.8, driver 525", "renew the driver"]),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, driver: str, cuda: str, said: list[str]) -> None:
    install(tmp_path, driver, cuda)
    with pytest.raises(IscError) as raised:
        gpus.require_gpus("a training on the ISC")
    assert raised.value.exit_code is ExitCode.UNFIT
    assert all(part in str(raised.value) for part in said), raised.value


@pytest.mark.parametrize(("driver", "cuda"), [("580.65", "'13.0'"), ("570.1", "'12.8'"), ("999.1", "'15.0'")])
def test_what_goes_together(tmp_path: Path, driver: str, cuda: str) -> None:
    install(tmp_path, driver, cuda)
    gpus.require_gpus("--device cuda")
    assert driver in gpus.story()
    assert cuda.strip("'") in gpus.story()


def test_an_older_driver_will_do_with_the_libraries_that_nvidia_has_for_it(tmp_path: Path) -> None:
    install(tmp_path, "570.1", "'13.0'")
    (tmp_path / "compat").mkdir()
    (tmp_path / "compat" / "libcuda.so.1").touch()
    gpus.require_gpus("--device cuda")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_the_isc_nobody_trains_on_the_cpu_unasked(tmp_path: Path, device: str) -> None:
    """In a real process, whose torch or machine has no CUDA: refused in stage 1, before torch is imported."""
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    place = Place(tmp_path, isc_mode=True, variables={"ISC_RUNTIME_DEVICE": UNSET})
    ended = place.run("--device", device)
    assert ended.code == ExitCode.UNFIT
    assert "needs a GPU for each rank" in ended.output.splitlines()[-1]
    assert "Training" not in ended.output
