"""What a rehearsal sees of batches that are loaded ahead of time, as they are for a GPU."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset, dataloader

from isc_runtime.ranks.group import Group
from isc_runtime.rehearsal import samples
from isc_runtime.rehearsal.trace import STARTUP, Trace
from isc_runtime.training import ahead
from isc_runtime.training.loaders import Data, held_out_batches, make_position, training_loader

DATA = Data(TensorDataset(torch.arange(20.0)), TensorDataset(torch.arange(6.0)))


@pytest.fixture
def observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What watches a rank; what it wraps is as it was afterwards."""
    iteration = dataloader._BaseDataLoaderIter
    for name in ("_next_index", "__next__", "_reset"):
        monkeypatch.setattr(iteration, name, getattr(iteration, name))
    monkeypatch.setattr(ahead._Ahead, "_arrived", ahead._Ahead._arrived)
    one = runpy.run_path(str(STARTUP / "sitecustomize.py"))["Observer"](tmp_path, "0")
    one.watch_data_loader(dataloader)
    one.watch_ahead(ahead)
    yield one
    one._file.close()
    one._stacks.close()


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_step_has_the_samples_that_it_was_taken_on(
    observer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ahead: bool, workers: int, group: Group
) -> None:
    monkeypatch.setattr(ahead, "AHEAD_ON", {"cpu"} if is_ahead else set())
    position = make_position(DATA, 4, 0, group)
    loader = training_loader(DATA, position, workers, torch.device("cpu"))
    trained: dict[int, tuple[int, ...]] = {}
    for _ in range(2):
        for (values,) in loader:
            position.advance()
            trained[position.progress.step] = tuple(map(int, values))
            observer.write("step", position.progress.step, position.progress.epoch, 0.0)
            if position.progress.step == 2:  # an evaluation: it goes on with another iteration
                with torch.no_grad():
                    assert len(list(held_out_batches(DATA, 3, group))) == 2
                break
    trace = Trace(tmp_path)
    trace.read()
    assert {number: step.samples for number, step in trace.ranks[0].steps.items()} == trained
    assert len(trained) == 5


def test_whatever_a_loader_gives_is_read(tmp_path: Path) -> None:
    """A sampler may give pairs, the sample and its size; what is loaded ahead may come from no DataLoader."""
    lines: list[list[Any]] = [["start", 1], ["given"], ["loader", 4]]
    for step, index in enumerate([0, 1, 0, 1], 1):
        lines += [["batch", [[index, [64, 32]]]], ["given"], ["step", step, (step - 1) // 2, 0.0]]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "rank_0.jsonl").write_text('["wrote", "/a' + text)  # a full disk has cut it
    trace = Trace(tmp_path)
    trace.read()
    path = samples.path_of([trace])
    assert path[1].samples == (((0, (64, 32)),),)
    assert samples.same_order(path) is None
    assert samples.count_epochs(path, [2], is_complete=True)[0].missed == 0
