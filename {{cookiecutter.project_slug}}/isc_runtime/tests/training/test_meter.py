"""What a log line says of the speed, and what is written when somebody wants to know why."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.environment import Environment
from isc_runtime.log_options import LogOptions
from isc_runtime.ranks.group import Group
from isc_runtime.sampler import ElasticSampler
from isc_runtime.training import meter
from isc_runtime.training.meter import Meter, memory_of


class Clock:
    """The time, which goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def slow(self, batches: int, seconds: float) -> Any:
        for number in range(batches):
            self.now += seconds
            yield number


def make(ranks: int = 1, **options: Any) -> Meter:
    group = Group(Environment(world_size=ranks), torch.device("cpu"))
    return Meter(ElasticSampler(1000, 4, world_size=ranks), group, LogOptions(**options))


def test_samples_a_second_and_the_share_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one = make(ranks=2)
    seen = []
    for number in one.over(clock.slow(4, 1.0)):
        clock.now += 3.0
        if number % 2:
            seen.append(one.look())
    clock.now += 1000.0  # an evaluation
    for values in seen:  # two batches of two ranks with 4 samples each, in 8 seconds
        assert values["samples_per_second"] == pytest.approx(2.0)
        assert values["data_wait"] == pytest.approx(0.25)
    assert "mfu" not in seen[0]


def test_what_lies_between_two_epochs_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one = make()
    for _ in range(2):
        for number in one.over([0, 1]):
            clock.now += 2.0
            if number == 1:
                break
        clock.now += 50.0
    for _ in one.over([0, 1]):
        clock.now += 2.0
        break
    assert one.look()["samples_per_second"] == pytest.approx(2.0)


def test_the_share_of_what_the_device_could_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    layer = nn.Linear(16, 8, bias=False)
    one = make(flops=1e4)
    inputs = torch.randn(4, 16)
    for _ in one.over(range(3)):
        torch.autograd.backward(layer(inputs).sum())
        clock.now += 1.0
    # 2 x 4 x 16 x 8 operations forward, and as many for the weights' gradient; in one second, of 10 000
    assert one.look()["mfu"] == pytest.approx(2 * 2 * 4 * 16 * 8 / 1e4)


def test_what_a_batch_takes_can_be_said_and_what_is_compiled_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(meter, "FlopCounterMode", None)  # it would fail
    for said, mfu in ((5e3, 0.5), (None, None)):
        one = make(flops=1e4, compile=True, batch_flops=said)
        for _ in one.over([0]):
            clock.now += 1.0
        assert one.look().get("mfu") == mfu


def test_a_profile_of_some_batches_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    one = make(profile_steps=2)
    with caplog.at_level(logging.INFO):
        for _ in one.over(range(9)):
            torch.ones(8, 8) @ torch.ones(8, 8)
    (file,) = (tmp_path / "runs").iterdir()
    events = json.loads(file.read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 2
    assert (
        f"[PROFILE] 2 batches after step 0, for chrome://tracing or Perfetto: {Path('runs') / file.name}"
        in (caplog.text)
    )
    assert "aten::mm" in caplog.text


def test_a_loop_that_is_left_has_its_profile_and_its_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an evaluation, or for good: the last batch was trained on."""
    monkeypatch.chdir(tmp_path)
    one, layer = make(profile_steps=2, flops=1e4), nn.Linear(16, 8, bias=False)
    for _ in range(meter.WARM_UP + 2):
        for _ in one.over(range(9)):
            torch.autograd.backward(layer(torch.ones(4, 16)).sum())
            break
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert "mfu" in one.look()


def test_a_profile_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("in the way")
    assert list(make(profile_steps=2).over(range(9))) == list(range(9))
    assert "[PROFILE] runs/profile_of_step_0.pt.trace.json was not written" in caplog.text


def test_what_this_process_holds() -> None:
    before = memory_of(torch.device("cpu"))
    held = torch.ones(2**24)
    assert memory_of(torch.device("cpu")) - before > 0.8 * held.nbytes
