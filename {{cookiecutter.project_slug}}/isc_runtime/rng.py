"""The state of every random number generator that a training may draw from."""

from __future__ import annotations

import contextlib
import random
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

NONE: Mapping[str, Any] = {}


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators, those of the GPUs included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, others: Mapping[str, Any] = NONE) -> Iterator[None]:
    """Draws within the block depend on `seed` alone, and those after it not on the block. CPU generators.

    Args:
        seed: of Python's, NumPy's and torch's own.
        others: more generators by name, which gives each of them a seed of its own.
    """
    with undisturbed(others.values()):
        seed_cpu(seed, others)
        yield


def seed_cpu(seed: int, others: Mapping[str, Any] = NONE) -> None:
    """Seeds the generators of the CPU, and others by name; below `2**32`. Each takes some microseconds."""
    for name, generator in others.items():
        own = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
        _seed(generator, int(own.generate_state(1)[0]))
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too


@contextlib.contextmanager
def undisturbed(others: Iterable[Any] = ()) -> Iterator[None]:
    """Draws after the block do not depend on those within it. CPU generators, and the others."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_others = [(generator, state_of(generator)) for generator in others]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for generator, state in of_others:
            _set_state(generator, state)


def state_of(generator: Any) -> Any:
    """The state of a generator of Python's, NumPy's or torch's. Raises TypeError: it has none to tell."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return None if isinstance(generator, random.SystemRandom) else generator.getstate()
    return generator.get_state()  # NumPy's older one, and torch's


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        if state is not None:
            generator.setstate(state)
    else:
        generator.set_state(state)


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    else:
        generator.seed(seed)


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
