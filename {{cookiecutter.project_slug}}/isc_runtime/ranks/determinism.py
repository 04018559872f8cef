"""The same inputs give the same bits: asked of torch, and explained where it cannot be had."""

from __future__ import annotations

import os
import re

import torch

from isc_runtime.errors import ExitCode, IscError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS and torch read it at their first product on a GPU
REFUSED = re.compile(r"^(.+?) does not have a deterministic implementation")


def set_determinism(is_wanted: bool) -> None:
    """Lets torch compute the same bits each time, or as fast as it can. Called before CUDA wakes up.

    Args:
        is_wanted: True asks for it of all operations; one that cannot do it raises RuntimeError.
    """
    torch.use_deterministic_algorithms(is_wanted)
    # It would also fill all memory that is new with NaN, which costs time and finds other mistakes.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = is_wanted
    torch.backends.cudnn.benchmark = not is_wanted  # it measures which of its ways is the fastest now
    if is_wanted:
        os.environ.setdefault(WORKSPACE, ":4096:8")


def explained(error: BaseException) -> IscError | None:
    """What to do if this error says that an operation has no deterministic form; None of another one."""
    refused = REFUSED.match(str(error)) if isinstance(error, RuntimeError) else None
    if refused is None:
        return None
    result = IscError(
        f"{refused[1]} has no deterministic form on this device, so a resume would not be exact",
        "above is where it is called",
        "Use another operation there; or train with --no-deterministic: a resume goes on all the same, but "
        "not bit for bit.",
        ExitCode.FAILED,
    )
    result.__cause__ = error
    return result
