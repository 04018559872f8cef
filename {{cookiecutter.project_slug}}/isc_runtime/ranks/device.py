"""Where a rank computes."""

from __future__ import annotations

import torch

from isc_runtime import gpus
from isc_runtime.environment import Environment
from isc_runtime.errors import IscError


def choose_device(environment: Environment) -> torch.device:
    """Where this rank computes, as `--device` says: on the ISC "auto" is a GPU for each rank.

    Elsewhere it is what is there: GPUs, for a training alone that of a Mac, else the CPU.

    Raises:
        IscError: there is no such device, or there are fewer GPUs than ranks on this node.
    """
    asked, is_alone = environment.device, environment.world_size == 1
    if asked == "cpu":
        return torch.device("cpu")
    found = _found()
    if environment.needs_gpus or (asked == "auto" and found == "cuda"):
        return _own_gpu(environment)
    if asked == "mps" or (is_alone and found == "mps"):  # not seen: no Mac was at hand
        if found == "mps" and is_alone:
            return torch.device("mps")
        hint = "It takes a Mac with Apple silicon, and a single rank: choose --device cpu."
        raise IscError("The GPU of a Mac cannot be used here", "--device mps", hint)
    return torch.device("cpu")


def _found() -> str:
    """The kind of accelerator that this machine has and this torch can use; "cpu" if there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found else "cpu"


def _own_gpu(environment: Environment) -> torch.device:
    count = torch.accelerator.device_count() if _found() == "cuda" else 0
    if count == 0:
        gpus.require_gpus(environment.asked_device)
        raise IscError(
            "CUDA finds no GPU that it can use",
            gpus.story(),
            f"Look at nvidia-smi and CUDA_VISIBLE_DEVICES there. {gpus.NO_DRIVER}",
        )
    if environment.local_rank >= count:
        raise IscError(
            f"There is no GPU for this rank: the node has {count}",
            f"LOCAL_RANK={environment.local_rank}",
            "Start as many processes per node as it has GPUs (N_PROC, --nproc-per-node).",
        )
    torch.accelerator.set_device_index(environment.local_rank)
    return torch.device("cuda", environment.local_rank)


def name_of(device: torch.device) -> str:
    """A device as people call it."""
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself. Older GPUs emulate it, slower than float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def use_in_this_thread(device: torch.device) -> None:
    """Makes a rank's GPU the current one of a new thread. Without that it is GPU 0, and whatever the thread
    asks of CUDA takes memory there, for each rank of the node.
    """
    if device.index is not None:  # there may be more than this one
        torch.accelerator.set_device_index(device)
