"""train.py, with all ranks on the first GPU, by gloo: NCCL refuses two ranks on one card."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import torch
import torch.distributed as dist

from conftest import PROJECT
from isc_runtime.environment import Environment
from isc_runtime.ranks import group


def the_first_one(environment: Environment) -> torch.device:
    """For every rank; the CPU where there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.accelerator.set_device_index(0)
    return torch.device("cuda", 0)


def by_gloo(backend: str, **more: Any) -> None:
    """Makes the group of all ranks."""
    make("gloo", **{**more, "device_id": None})


make = dist.init_process_group
setattr(group, "choose_device", the_first_one)  # noqa: B010  # a checker would mind an assignment
setattr(dist, "init_process_group", by_gloo)  # noqa: B010
sys.argv[0] = str(PROJECT / "train.py")
sys.path.insert(0, str(PROJECT))
runpy.run_path(sys.argv[0], run_name="__main__")
