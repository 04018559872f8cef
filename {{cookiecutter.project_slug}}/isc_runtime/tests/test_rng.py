"""Every generator goes on where it was."""

from __future__ import annotations

import io
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from isc_runtime import rng

CPU = torch.device("cpu")


def draw() -> tuple[float, float, float, float]:
    return random.random(), float(np.random.random()), float(np.random.normal()), float(torch.rand(1))


def test_generators_go_on_after_a_round_trip_through_a_safe_file() -> None:
    rng.seed_everything(5)
    draw()  # an odd number of normal draws leaves NumPy with one in store
    file = io.BytesIO()
    torch.save(rng.capture(CPU), file)
    expected = [draw() for _ in range(3)]
    rng.seed_everything(6)
    file.seek(0)
    rng.restore(torch.load(file, weights_only=True), CPU)
    assert [draw() for _ in range(3)] == expected


def test_what_version_0_1_0_has_saved_is_restored() -> None:
    rng.seed_everything(5)
    numpy_state = dict(np.random.get_state(legacy=False))
    numpy_state["state"] = {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}
    state = {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": None}
    expected = draw()
    rng.restore(state, CPU)
    assert draw() == expected


@pytest.mark.parametrize("device", [torch.device("cuda", 1), torch.device("mps")])
def test_the_generator_of_an_accelerator_goes_on(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    own, states = torch.Generator(), rng.capture(CPU)
    accelerator = SimpleNamespace(get_rng_state=own.get_state, set_rng_state=own.set_state)
    monkeypatch.setattr(torch, "get_device_module", {device: accelerator}.__getitem__)
    file = io.BytesIO()
    torch.save(rng.capture(device), file)
    expected = torch.rand(3, generator=own)
    rng.restore(states, device)  # of a run on a CPU: there is none of this device
    file.seek(0)
    rng.restore(torch.load(file, weights_only=True), device)
    assert torch.equal(torch.rand(3, generator=own), expected)


def test_a_seed_decides_every_generator() -> None:
    rng.seed_everything(1)
    first = draw()
    rng.seed_everything(1)
    assert draw() == first
