"""A rank computes where it should, or it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from isc_runtime.environment import DEVICE, Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.device import choose_device, has_bf16

HERE = Environment(device="cpu")


def test_the_cpu_is_taken_where_it_is_asked_for() -> None:
    assert choose_device(replace(HERE, lossy_artifact_path="/logs")) == torch.device("cpu")
    assert Environment.read({DEVICE: "cpu"}, device="cuda").device == "cpu"
    assert Environment.read({}, device="cuda").device == "cuda"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (Environment(device="cuda"), "--device cuda needs a GPU for each rank"),
        (Environment(lossy_artifact_path="/logs"), "a training on the ISC needs a GPU for each rank"),
        (Environment(device="mps", world_size=2), "GPU of a Mac cannot be used here: --device mps"),
    ],
)
def test_a_device_that_is_not_there_is_not_replaced(environment: Environment, said: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(IscError, match=said) as raised:
        choose_device(environment)
    assert raised.value.exit_code is ExitCode.UNFIT


@pytest.mark.parametrize("is_mac", [True, False])
def test_a_laptop_takes_what_is_there(monkeypatch: pytest.MonkeyPatch, is_mac: bool) -> None:
    mac = torch.device("mps") if is_mac else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: mac)
    assert choose_device(Environment()).type == ("mps" if is_mac else "cpu")
    assert choose_device(Environment(world_size=2)).type == "cpu"  # gloo knows nothing of a Mac's GPU


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    card = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: card)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    assert choose_device(Environment(local_rank=1, world_size=4)) == torch.device("cuda", 1)
    assert chosen == [1]
    with pytest.raises(IscError, match="no GPU for this rank: the node has 2: LOCAL_RANK=2"):
        choose_device(Environment(local_rank=2, world_size=4))


def test_bf16_that_is_emulated_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs before Ampere it is slower than float32."""
    for is_real in (False, True):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, real=is_real: including_emulation or real,
        )
        assert has_bf16(torch.device("cuda", 0)) is is_real
    assert not has_bf16(torch.device("cpu"))
