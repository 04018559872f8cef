"""What the data draw from besides the generators that are set anew for each batch, as a rehearsal sees it."""

from __future__ import annotations

import random
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isc_runtime.rehearsal.trace import STARTUP
from isc_runtime.sampler import ReplayableDataset

MODULE = """
import random
import numpy as np
import torch
NOISE = np.random.default_rng(0)

def collate(samples):
    return samples
"""


@pytest.fixture(scope="module")
def generators_in() -> Callable[[Any], set[str]]:
    """The observer's; it observes nothing here, where nobody rehearses."""
    found: Callable[[Any], set[str]] = runpy.run_path(str(STARTUP / "sitecustomize.py"))["generators_in"]
    return found


class Noisy(torch.utils.data.Dataset[Any]):
    """A dataset that holds something."""

    __module__ = "data"  # as a user's: what is the runtime's is not looked into

    def __init__(self, held: Any) -> None:
        self.held = held


class Stateful(Noisy):
    """One that says itself where it goes on: nobody else sets its generators."""

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (np.random.default_rng(0), "dataset.held"),
        (np.random.RandomState(0), "dataset.held"),
        (torch.Generator(), "dataset.held"),
        ({"draws": [random.Random(0)]}, "dataset.held.draws.0"),
        (partial(print, random.Random(0)), "dataset.held.args.0"),
        (random.Random(0).shuffle, "dataset.held.__self__"),
        (Noisy(torch.Generator()), "dataset.held.held"),
        (torch.randn(3), ""),
        ([random, np.random, torch], ""),
        (torch.rand, ""),
    ],
)
def test_a_dataset_s_own_are_found_unless_they_are_set_anew(
    generators_in: Callable[[Any], set[str]], held: Any, name: str
) -> None:
    assert generators_in(ReplayableDataset(Stateful(held))) == ({name} if name else set())
    assert generators_in(ReplayableDataset(Noisy(held))) == set()


def test_a_generator_beside_a_function_of_the_project_is_found(
    generators_in: Callable[[Any], set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy_batches.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import noisy_batches  # type: ignore[import-not-found]

    dataset = ReplayableDataset(Noisy(None), noisy_batches.collate)
    assert generators_in(dataset) == {"collate.NOISE"}
    monkeypatch.setattr(sys, "path", ["/elsewhere", *sys.path])
    assert generators_in(dataset) == set()
