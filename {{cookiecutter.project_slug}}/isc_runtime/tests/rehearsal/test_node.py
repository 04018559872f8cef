"""Which GPUs a node of a rehearsal can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from isc_runtime.environment import DEVICE
from isc_runtime.rehearsal.node import Artifacts, Machine

WHOLE = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-2222-3333-4444-555555555555)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-66666666-2222-3333-4444-555555555555)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11111111-2222-3333-4444-555555555555)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaaaaaa-2222-3333-4444-555555555555)
  MIG 1g.5gb      Device  1: (UUID: MIG-bbbbbbbb-2222-3333-4444-555555555555)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-66666666-2222-3333-4444-555555555555)
"""
PARTS = ("MIG-aaaaaaaa-2222-3333-4444-555555555555", "MIG-bbbbbbbb-2222-3333-4444-555555555555")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs that comes first in PATH, and an environment without CUDA_VISIBLE_DEVICES."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def machine(folder: Path, said: str) -> Machine:
    """One on which nvidia-smi says this."""
    (folder / "said").write_text(said)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {folder / 'said'}\n")
    program.chmod(0o755)
    return Machine.here([], folder)


def test_a_gpu_that_is_divided_counts_as_its_parts(here: Path) -> None:
    assert machine(here, WHOLE).gpus == ("0", "1")
    divided = machine(here, DIVIDED)
    assert divided.gpus == (*PARTS, "1")
    artifacts = Artifacts(here, here)
    given = [divided.environment(node, 3, 1, 1, artifacts)["CUDA_VISIBLE_DEVICES"] for node in range(3)]
    assert given == [*PARTS, "1"]
    together = divided.environment(0, 1, 2, 1, artifacts)  # a process sees one part at most
    assert (together["CUDA_VISIBLE_DEVICES"], together[DEVICE]) == ("", "cpu")


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("-1", ()),
        ("", ()),
        ("NoDevFiles", ()),
        ("1, 0", ("1", "0")),
        ("0,-1,1", ("0",)),
        (f"GPU-1111,{PARTS[0]}", ("GPU-1111", PARTS[0])),
    ],
)
def test_what_cuda_would_not_take_is_no_gpu(
    here: Path, monkeypatch: pytest.MonkeyPatch, visible: str, gpus: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine(here, WHOLE).gpus == gpus
