"""What a command line says explicitly wins over the checkpoint; what it does not say changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from isc_runtime import options
from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.sampler import ElasticSampler


def arguments(*command_line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    return options.parse(parser, list(command_line))


class Asking:
    """A training with a decaying learning rate, made of a command line."""

    def __init__(
        self, directory: Path, group: Group, *command_line: str, kind: type = torch.optim.AdamW
    ) -> None:
        self.arguments = arguments(*command_line)
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        settings = {"lr": self.arguments.learning_rate, "weight_decay": self.arguments.weight_decay}
        self.optimizer = kind(self.model.parameters(), **settings)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.5**step)
        self.sampler = ElasticSampler(100, 1)
        run = Run(LocalStore(directory, group), group, StopRequest(), Scalars(None))
        self.checkpointer = Checkpointer(run, self, CheckpointOptions())

    def state(self) -> State:
        return {name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "sampler")}

    def step(self) -> None:
        torch.autograd.backward(self.model(torch.ones(2)))
        self.optimizer.step()
        self.scheduler.step()
        self.sampler.advance()

    @property
    def setting(self) -> tuple[float, float]:
        """Learning rate and weight decay, of the next step."""
        group = self.optimizer.param_groups[0]
        return group["lr"], group["weight_decay"]


def resumed(
    directory: Path, group: Group, *command_line: str, kind: type = torch.optim.AdamW
) -> tuple[float, float]:
    """Goes on with this command for a step, saves, and says with which settings it began."""
    training = Asking(directory, group, *command_line, kind=kind)
    with training.checkpointer as checkpointer:
        assert checkpointer.restore()
        setting = training.setting
        training.step()
        assert training.setting[0] == pytest.approx(setting[0] / 2)  # the schedule goes on from there
        checkpointer.save()
    return setting


def test_what_is_asked_for_explicitly_wins_once(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = Asking(tmp_path, group, "--learning-rate", "0.2")
    with first.checkpointer as checkpointer:
        checkpointer.restore()
        first.step()
        checkpointer.save()
    assert resumed(tmp_path, group, "--learning-rate", "0.2") == pytest.approx((0.1, 0.5))
    assert "[RESUME]" not in caplog.text
    assert resumed(tmp_path, group) == pytest.approx((0.05, 0.5)), "a default is no wish"
    assert "--learning-rate 0.1, not 0.2" in caplog.text
    assert "(taken over)" not in caplog.text
    caplog.clear()
    wish = ("--learning-rate", "0.8", "--weight-decay", "0.1", "--epochs", "9", "--workers", "2")
    assert resumed(tmp_path, group, *wish) == pytest.approx((0.1, 0.1))
    expected = (
        "--epochs 9, not 3; --learning-rate 0.8, not 0.2 (taken over); --weight-decay 0.1, not 0.5 (taken"
    )
    assert expected in caplog.text
    caplog.clear()
    assert resumed(tmp_path, group, *wish) == pytest.approx((0.05, 0.1)), "the same command changes nothing"
    assert "[RESUME]" not in caplog.text


def test_another_kind_of_optimizer_is_named(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = Asking(tmp_path, group)
    with first.checkpointer as checkpointer:
        first.step()
        checkpointer.save()
    resumed(tmp_path, group, kind=torch.optim.Adam)
    assert "optimizer is a torch.optim.adam.Adam, not a torch.optim.adamw.AdamW" in caplog.text
