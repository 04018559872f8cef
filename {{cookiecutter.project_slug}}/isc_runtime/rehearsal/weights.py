"""Are two checkpoints the same, bit for bit?"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import Damaged
from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:
    import torch

MODEL = "model"
LAST = ("optimizer", MODEL)  # of the parts; what differs in others explains more
NOT_COMPARED = {"rng", "saves", "asked"}  # of a checkpoint; after an interruption they may differ


class _Missing:
    """Stands where one of the two has no such key."""

    def __str__(self) -> str:
        return "nothing"


MISSING = _Missing()


def differences(one: Path, other: Path) -> list[str]:
    """Where the parts of a training in two checkpoints differ.

    Args:
        one: a checkpoint's directory.
        other: another one's.

    Returns:
        The names of what differs, numbers with both values; empty if all is equal bit for bit.

    Raises:
        IscError: a checkpoint cannot be read.
    """
    states = [_load(directory) for directory in (one, other)]
    found = []
    for name in [*sorted((states[0].keys() | states[1].keys()) - {*LAST}), *LAST]:
        found += _differences(states[0].get(name, MISSING), states[1].get(name, MISSING), name)
    return sorted(found, key=lambda text: "=" not in text)  # a number says more than a tensor


def _load(directory: Path) -> dict[str, Any]:
    # Seconds, which only a rehearsal that came this far has to spend.
    from isc_runtime.checkpointing.on_disk.payload import read_state
    from isc_runtime.ranks.shards import ShardedTensors

    entry = Entry.in_folder(directory)
    try:
        manifest = entry.verify()
    except Damaged as reason:
        hint = "The other checks of this rehearsal count; for this one run it again."
        raise IscError(f"A checkpoint is damaged ({reason})", directory, hint, ExitCode.CHECKPOINT) from None
    state = read_state(entry, manifest, ShardedTensors({}))
    if MODEL not in state:
        hint = f"It has to hold the weights as {MODEL!r}: put the model into Trainer.state()."
        raise IscError("A checkpoint cannot be compared", entry.payload, hint, ExitCode.CHECKPOINT)
    return {name: part for name, part in state.items() if name not in NOT_COMPARED}


def _differences(one: Any, other: Any, name: str) -> list[str]:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if _same_bits(one, other) else [name]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        pairs = [(f"{name}.{key}", one.get(key, MISSING), other.get(key, MISSING)) for key in keys]
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = [(f"{name}.{number}", *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        return [] if _same_value(one, other) else [f"{name}={one!s:.40} and not {other!s:.40}"]
    return [difference for part, a, b in pairs for difference in _differences(a, b, part)]


def _same_value(one: Any, other: Any) -> bool:
    """Of floating-point numbers the bits: a NaN equals itself, and 0.0 is not -0.0."""
    import torch

    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, complex) and isinstance(other, complex):
        return _same_value(one.real, other.real) and _same_value(one.imag, other.imag)
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return False
    return bool(one == other)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bits, not values: a NaN equals itself here, and 0.0 is not -0.0."""
    import torch

    from isc_runtime.ranks.shards import as_bytes

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    with contextlib.suppress(RuntimeError):  # a sparse or quantized tensor has no bytes to view
        return torch.equal(as_bytes(one), as_bytes(other))
    return torch.equal(one, other)
