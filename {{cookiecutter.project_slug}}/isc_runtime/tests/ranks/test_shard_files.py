"""A rank reads what it needs of a sharded checkpoint, and no byte more."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import save

from isc_runtime.environment import Environment
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.shards import MARK, ShardedTensors, read
from isc_runtime.tests.processes import run_forked
from isc_runtime.tests.small_training import Network

STATE: dict[str, Any] = {
    "whole": torch.randn(7, 5),
    "turned": torch.randn(6, 4).T,
    "number": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(4, 2, 3).bfloat16(),
    "counts": torch.arange(5),
}


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_tensors_of_all_forms_come_back(tmp_path: Path) -> None:
    save(STATE, checkpoint_id=tmp_path)
    names: list[set[str]] = []
    marks = {name: {MARK: name} for name in STATE}
    state = read(marks, tmp_path, sizes(tmp_path), ShardedTensors({}), names.append)
    assert names == [{"__0_0.distcp"}]
    for name, value in STATE.items():
        assert torch.equal(state[name], value), name
        assert state[name].dtype == value.dtype


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_file_that_became_shorter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save({"x": torch.ones(1000)}, checkpoint_id=tmp_path)
    files = sizes(tmp_path)
    real, reads = os.preadv, []

    def at_the_end(descriptor: int, buffers: Any, offset: int) -> int:
        reads.append(offset)
        return real(descriptor, [buffers[0][:7]], offset) if len(reads) < 3 else 0

    monkeypatch.setattr(os, "preadv", at_the_end)
    with pytest.raises(EOFError, match="has become shorter"):
        read({"x": {MARK: "x"}}, tmp_path, files, ShardedTensors({}))
    assert [offset - reads[0] for offset in reads] == [0, 7, 14]


def read_and_count(directory: Path) -> None:
    """On each rank: a model of which it gets its part, wherever that is."""
    with process_group(Environment.read(), 60, 60) as group:
        torch.manual_seed(3)
        expected = {name: value.detach().clone() for name, value in Network().named_parameters()}
        model = build(Network, group, ParallelOptions("fsdp"))
        real, counts = os.preadv, []

        def counted(*arguments: Any) -> int:
            counts.append(real(*arguments))
            return counts[-1]

        marks = {"model": {name: {MARK: name} for name in expected}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "preadv", counted)
            state = read(marks, directory, sizes(directory), ShardedTensors({"model": model}))["model"]
        assert all(torch.equal(state[name].full_tensor(), value) for name, value in expected.items())
        assert sum(counts) == sum(value.to_local().nbytes for value in state.values())


def save_on_each(directory: Path) -> None:
    with process_group(Environment.read(), 60, 60) as group:
        torch.manual_seed(3)
        model = build(Network, group, ParallelOptions("fsdp"))
        state: dict[str, Tensor] = dict(model.named_parameters())
        save(state, checkpoint_id=directory)


@pytest.mark.parametrize("ranks", [2, 3])
def test_on_any_number_of_ranks_each_reads_its_part(tmp_path: Path, ranks: int) -> None:
    (tmp_path / "saved").mkdir()
    for work, number in ((save_on_each, 2), (read_and_count, ranks)):
        for ended in run_forked(tmp_path, partial(work, tmp_path / "saved"), number):
            assert ended.code == 0, ended.output
