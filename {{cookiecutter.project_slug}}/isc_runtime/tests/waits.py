"""How often a training waits for its device, and how much it copies."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own are not
    """Counts how often a number is asked of the device, which then is waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own are not
    """Counts the bytes that are copied in this block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.copy_.default:
            self.bytes += args[0].nbytes
        return function(*args, **(kwargs or {}))


class HostValues(TorchFunctionMode):
    """Counts what of the host becomes a tensor on a device, or is moved there, and is waited for.

    Args:
        kind: of the device.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.count = kind, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = kwargs or {}
        is_made = function in (torch.as_tensor, torch.tensor) and not isinstance(args[0], torch.Tensor)
        is_moved = function is torch.Tensor.to and args[0].is_cpu and not more.get("non_blocking")
        device = more.get("device", args[1] if is_moved and len(args) > 1 else None)
        if (is_made or is_moved) and isinstance(device, str | torch.device):
            self.count += torch.device(device).type == self.kind
        return function(*args, **more)
