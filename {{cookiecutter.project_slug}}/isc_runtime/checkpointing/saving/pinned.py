"""Host memory that a GPU copies into at full speed: one piece for all tensors of a state.

torch's own pinned memory would do, but takes a power of two for each tensor, up to twice its size, and is
made where it is needed first: in the first save of every start, which the training waits for.
"""

from __future__ import annotations

import logging
import mmap
import threading
from collections.abc import Callable

import torch
from torch import Tensor

ALIGNED = 512  # bytes, at which each tensor begins
PORTABLE = 1  # cudaHostRegisterPortable: for all GPUs of this process

logger = logging.getLogger("checkpoint")


def register(address: int, size: int) -> None:
    """Pins memory that is there. Raises RuntimeError if it cannot be: a limit, or there is too little."""
    error = torch.cuda.cudart().cudaHostRegister(address, size, PORTABLE)  # type: ignore[no-untyped-call]
    if int(error):
        raise RuntimeError(f"cudaHostRegister: error {int(error)}")


class PinnedMemory:
    """One piece of pinned memory, handed out bit by bit; where it cannot be pinned it is usual memory.

    Args:
        register: pins memory, given its address and size.
    """

    def __init__(self, register: Callable[[int, int], None] = register) -> None:
        self._register = register
        self._lock = threading.Lock()  # the first save may come before the background is done
        self._memory: mmap.mmap | None = None
        self._handed_out = 0
        self._is_reserved = False
        self.is_pinned = False

    def reserve(self, tensors: list[Tensor]) -> None:
        """Makes room for copies of these tensors, once. It takes a second for some GB."""
        with self._lock:
            size = sum(_aligned(tensor.nbytes) for tensor in tensors)
            if self._is_reserved or not size:
                return
            self._is_reserved = True
            try:
                self._memory = mmap.mmap(-1, size)
                self._register(torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr(), size)
                self.is_pinned = True
            except (OSError, RuntimeError) as error:
                logger.warning(
                    "[PINNED] %d bytes of host memory could not be pinned (%s): saves take longer",
                    size,
                    error,
                )

    def like(self, tensor: Tensor) -> Tensor | None:
        """Memory of its own for a copy of this tensor; None if there is none left."""
        with self._lock:
            begin, end = self._handed_out, self._handed_out + _aligned(tensor.nbytes)
            if self._memory is None or end > len(self._memory) or not tensor.nbytes:
                return None
            self._handed_out = end
            # Each is a storage of its own: a file would hold all of a common one.
            piece = torch.frombuffer(self._memory, dtype=torch.uint8, count=tensor.nbytes, offset=begin)
        looks = torch.empty_like(tensor, device="meta")
        return piece.view(tensor.dtype).as_strided(looks.shape, looks.stride())


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
