"""torchrun's own failures, in words and in time."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.launching import launch as launch_module
from isc_runtime.ranks.launching.launch import launch


def test_the_limit_is_the_training_s(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(launch_module, "torchrun", lambda arguments: given.append(arguments) or 7)  # type: ignore[func-returns-value]
    assert launch(["--nnodes", "2", "train.py", "--first-timeout", "20"]) == 7
    assert launch(["--rdzv-conf=timeout=5", "train.py"]) == 7
    assert given[0][0] == "--rdzv-conf=timeout=21"
    assert given[1] == ["--rdzv-conf=timeout=5", "train.py"]


def test_a_lost_contact_has_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(arguments: list[str]) -> int:
        raise dist.DistNetworkError("the socket is gone")

    monkeypatch.setattr(launch_module, "torchrun", lose)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(IscError) as raised:
        launch(["train.py"])
    assert raised.value.exit_code is ExitCode.PEER
    assert "(node 1)" in raised.value.what
    assert "MASTER_ADDR=10.0.0.1" in raised.value.where
    assert "the socket is gone" in raised.value.where
