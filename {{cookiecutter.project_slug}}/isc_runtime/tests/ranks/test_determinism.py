"""Determinism is asked for before anything computes, and what cannot have it says so with both ways out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from isc_runtime.environment import Environment
from isc_runtime.ranks.determinism import WORKSPACE
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.reporting import reported
from isc_runtime.tests.processes import run_forked


def work(deterministic: bool) -> None:
    """On each rank: an operation that has no deterministic form, not even on a CPU."""
    os.environ.pop(WORKSPACE, None)
    with reported(), process_group(Environment.read(), 60, 60, deterministic):
        print("cuDNN:", torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
        print("cuBLAS:", os.environ.get(WORKSPACE))
        print("new memory:", torch.utils.deterministic.fill_uninitialized_memory)  # type: ignore[attr-defined]
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
        print("it is done")


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_is_asked_for_and_what_cannot_have_it_says_so(tmp_path: Path, ranks: int) -> None:
    ended = run_forked(tmp_path, partial(work, True), ranks)
    assert [one.code for one in ended] == [1] * ranks, ended
    said = "".join(one.output for one in ended)
    assert "cuDNN: True False" in said
    assert "cuBLAS: :4096:8" in said
    assert "new memory: False" in said
    assert "it is done" not in said
    (error,) = (line for line in said.splitlines() if line.startswith("ERROR"))
    assert "put_ has no deterministic form" in error
    assert "another operation" in error
    assert "--no-deterministic" in error
    assert "in work" in said.partition("ERROR")[0]  # where it is called


@pytest.mark.parametrize("ranks", [1, 2])
def test_without_it_everything_may_be_used(tmp_path: Path, ranks: int) -> None:
    for ended in run_forked(tmp_path, partial(work, False), ranks):
        assert ended.code == 0, ended.output
        assert "cuDNN: False True" in ended.output
        assert "cuBLAS: None" in ended.output
        assert "it is done" in ended.output
