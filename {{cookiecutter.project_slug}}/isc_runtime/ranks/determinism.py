"""The same inputs give the same bits: asked of torch; `explained` says where it cannot be had."""

from __future__ import annotations

import os

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS and torch read it at their first product on a GPU


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
