"""Sizes beyond the usual: many tensors, many old checkpoints."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch

from trainee import Trainee

TENSORS = 20_000
OLD = 10_000
LIMIT = 120.0  # seconds, on two busy cores


class Many(torch.nn.Module):
    """A model of very many small parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ParameterList(torch.full((3,), float(number)) for number in range(TENSORS))


@pytest.mark.parametrize("kind", ["artifact", "local"])
def test_a_state_of_very_many_tensors(tmp_path: Path, kind: str) -> None:
    trainee = Trainee(kind, tmp_path)
    trainee.metrics["many"] = dict(Many().state_dict())
    trainee.train()
    begun = time.monotonic()
    trainee.checkpointer.save()
    trainee.checkpointer.settle()
    again = Trainee(kind, tmp_path)
    again.metrics["many"] = {}
    assert again.checkpointer.restore()
    seconds = time.monotonic() - begun
    print(f"\n{TENSORS} tensors, {kind}: saved and restored in {seconds:.1f} s")
    assert seconds < LIMIT
    many = again.metrics["many"]
    assert len(many) == TENSORS
    assert all(
        torch.equal(value, torch.full((3,), float(name.split(".")[1]))) for name, value in many.items()
    )


def test_a_folder_with_very_many_old_checkpoints(tmp_path: Path) -> None:
    trainee = Trainee("local", tmp_path, keep_checkpoints=0)
    trainee.train()
    trainee.checkpointer.save()
    trainee.checkpointer.settle()
    (entry,) = trainee.store.entries()
    for number in range(OLD):  # of earlier days, of the same step
        day, second = divmod(number, 86_400)
        name = f"checkpoint_2020010{1 + day}-{second // 3600:02}{second // 60 % 60:02}{second % 60:02}_1"
        for path in entry.parts():
            shutil.copy(path, path.with_name(path.name.replace(entry.payload.stem, name)))
    begun = time.monotonic()
    again = Trainee("local", tmp_path, keep_checkpoints=0)
    assert again.checkpointer.restore()
    started = time.monotonic() - begun
    again.train()
    again.checkpointer.save()
    again.checkpointer.settle()
    saved = time.monotonic() - begun - started
    print(f"\n{OLD} old checkpoints: a start {started:.1f} s, a save {saved:.1f} s")
    assert len(again.store.entries()) == OLD + 2
    latest = again.store.latest()
    assert latest is not None
    assert latest.read_manifest().step == 2
    assert started + saved < LIMIT
