"""Weights that are not the same on all ranks are found, of whatever type they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from isc_runtime.environment import Environment
from isc_runtime.ranks import weights
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.weights import unlike_weights
from isc_runtime.tests.processes import run_forked

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128)


def test_the_first_rank_with_other_weights_is_named(tmp_path: Path) -> None:
    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            kinds = {f"of {dtype}".replace(".", " "): dtype for dtype in TYPES}
            own = {name: nn.Parameter(torch.ones(3, dtype=dtype)) for name, dtype in kinds.items()}
            own |= {"scalar": nn.Parameter(torch.ones(())), "empty": nn.Parameter(torch.ones(0, 2))}
            module = nn.ParameterDict(own)
            assert unlike_weights({"model": module}, group) is None
            for name in (*kinds, "scalar"):
                with torch.no_grad():
                    module[name].add_(group.rank)
                found = unlike_weights({"other": nn.ReLU(), "model": module}, group)
                assert found == (1, f"model.{name}"), found
                with torch.no_grad():
                    module[name].sub_(group.rank)
            assert unlike_weights({"model": module}, group) is None

    for ended in run_forked(tmp_path, work):
        assert ended.code == 0, ended.output


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_sum_up_is_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    def fails(modules: object) -> dict[str, int]:
        raise RuntimeError("out of memory")

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            if group.rank == rank:
                monkeypatch.setattr(weights, "_sums", fails)
            assert unlike_weights({"model": nn.Linear(1, 1).requires_grad_(False)}, group) is None

    for ended in run_forked(tmp_path, work):
        assert ended.code == 0, ended.output


def test_one_rank_is_like_itself(tmp_path: Path) -> None:
    with process_group(Environment.read(), 60, 60) as group:
        assert unlike_weights({"model": nn.Linear(1, 1)}, group) is None
