"""The state of every random number generator that a training may draw from."""

from __future__ import annotations

import contextlib
import random
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators, those of the GPUs included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws within the block depend on `seed` alone, and those after it not on the block. CPU generators."""
    with undisturbed():
        seed_cpu(seed)
        yield


def seed_cpu(seed: int) -> None:
    """Seeds the generators of the CPU; below `2**32`. It takes some microseconds."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Draws after the block do not depend on those within it. CPU generators."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def capture(device: torch.device) -> dict[str, Any]:
    """The generators' states on this rank, in types that `torch.load(weights_only=True)` accepts.

    As bytes: a save looks at each value of the state, of all ranks, and these are thousands of numbers.
    """
    version, internal, gauss = random.getstate()
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy_state["state"] = {**numpy_state["state"], "key": numpy_state["state"]["key"].tobytes()}
    of_device = {"cuda": None}
    if device.type != "cpu":  # not seen of a Mac's
        of_device[device.type] = torch.get_device_module(device).get_rng_state().numpy().tobytes()
    return {
        "python": (version, array("I", internal).tobytes(), gauss),
        "numpy": numpy_state,
        "torch": torch.get_rng_state().numpy().tobytes(),
        **of_device,
    }


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Sets the generators to what `capture` returned, in this version or in 0.1.0, which kept numbers."""
    version, internal, gauss = state["python"]
    internal = array("I", internal)  # of bytes or of numbers
    random.setstate((version, tuple(internal), gauss))
    numpy_state = dict(state["numpy"])
    key = np.array(array("I", numpy_state["state"]["key"]), dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(_tensor(state["torch"]))
    if device.type != "cpu" and state.get(device.type) is not None:
        torch.get_device_module(device).set_rng_state(_tensor(state[device.type]))


def _tensor(state: bytes | torch.Tensor) -> torch.Tensor:
    return state if isinstance(state, torch.Tensor) else torch.frombuffer(bytearray(state), dtype=torch.uint8)
