"""What computes wrongly or not at all is named before a second of training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from isc_runtime.environment import Environment
from isc_runtime.ranks import self_test
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.tests.processes import Ended, run_forked

HERE = Environment(device="cpu")


def test_the_log_says_where_it_computes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "train")
    self_test.check_devices(Group(HERE, torch.device("cpu")))
    assert "[DEVICE] Training on 1 x cpu" in caplog.text


def test_a_device_that_computes_wrongly_or_not_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Group(HERE, torch.device("cpu"))
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda one, other: product(one, other) + 1)
    with pytest.raises(RankError, match=r"rank 0 on .*: The device computes wrongly: cpu"):
        self_test.check_devices(alone)

    def broken(one: Any, other: Any) -> Any:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(torch.Tensor, "__matmul__", broken)
    with pytest.raises(RankError, match=r"does not compute \(CUDA error: uncorrectable ECC.*another node"):
        self_test.check_devices(alone)


def on_two_ranks(directory: Path, spoil: Callable[[Environment], None]) -> list[Ended]:
    def work() -> None:
        logging.basicConfig(level=logging.INFO, force=True)
        environment = Environment.read()
        spoil(environment)
        with process_group(environment, 60, 60) as group:
            self_test.check_devices(group)

    return run_forked(directory, work)


def test_a_link_that_loses_bits_is_found(tmp_path: Path) -> None:
    def spoil(environment: Environment) -> None:
        if environment.rank == 1:
            Group.sum = lambda self, values: values  # type: ignore[method-assign]

    def work() -> None:  # only one of two ranks has added up
        group = Group(replace(HERE, world_size=2, rank=1), torch.device("cpu"))
        spoil(group.environment)
        self_test.check_devices(group)

    (ended,) = run_forked(tmp_path, work, ranks=1)
    assert "The ranks' sum is 2 and not 3: all_reduce" in ended.output


def test_a_slow_rank_is_named(tmp_path: Path) -> None:
    def spoil(environment: Environment) -> None:
        self_test._seconds_of_known_product = lambda _: 1.0 + 2.5 * environment.rank  # type: ignore[assignment]

    said = "".join(ended.output for ended in on_two_ranks(tmp_path, spoil))
    assert "rank 1 on" in said
    assert "is slow: its self-test took 3.50 s, of others 1.00 s" in said
