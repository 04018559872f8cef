"""A model of which each rank keeps a part is the model that it is without: the same weights, bit for bit."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isc_runtime import rng
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks import building
from isc_runtime.ranks.building import build
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.reporting import reported
from isc_runtime.tests.processes import run_forked
from isc_runtime.tests.small_training import Network

SIDE = 132  # of a square parameter: more than 64 kB, and not divisible by 5 or 8


class Language(nn.Module):
    """Made as people make language models: filled again in a second pass, scaled, tied."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(2 * SIDE, SIDE, padding_idx=3)
        self.place = nn.Parameter(torch.randn(SIDE, SIDE) * 0.02)
        self.blocks = nn.ModuleList(nn.Linear(SIDE, SIDE) for _ in range(3))
        self.head = nn.Linear(SIDE, 2 * SIDE, bias=False)
        self.head.weight = self.tokens.weight
        self.apply(self._fill)
        weights = [block.get_parameter("weight") for block in self.blocks]
        for weight in weights:
            nn.init.trunc_normal_(weight, std=0.1)
        for number, weight in enumerate(weights, start=1):
            weight.data.div_(2.0 * number)
        self.register_buffer("mask", torch.ones(SIDE, SIDE).tril())

    def _fill(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=0.02)
        if isinstance(module, nn.Embedding):
            module.weight.data[3].zero_()


def with_norms() -> nn.Module:
    """Buffers, layers of other kinds, one that is thrown away, and weights that come from elsewhere."""
    model = nn.Sequential(
        nn.Conv2d(64, 65, 3), nn.BatchNorm2d(64), nn.LSTM(SIDE, SIDE), nn.Linear(SIDE, SIDE)
    )
    model[3] = nn.Linear(SIDE, SIDE)
    nn.init.orthogonal_(model.get_parameter("3.weight"))
    loaded = {name: torch.rand_like(value) for name, value in nn.LSTM(SIDE, SIDE).state_dict().items()}
    model[2].load_state_dict(loaded)
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    return model


def copied_layers() -> nn.Module:
    """Torch's own encoder is made of deep copies of a layer."""
    layer = nn.TransformerEncoderLayer(SIDE, 4, dim_feedforward=SIDE)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def of_numpy() -> nn.Module:
    """What another library writes, behind torch's back."""
    model = nn.Sequential(nn.Linear(SIDE, SIDE))
    values = model.get_parameter("0.weight").detach().numpy()
    model.extend(nn.Linear(SIDE, SIDE) for _ in range(3))
    values[:] = torch.rand(SIDE, SIDE).numpy()
    model[1].weight = nn.Parameter(torch.from_numpy(values.copy()))
    return model


WAYS: list[Callable[[], nn.Module]] = [Language, with_norms, copied_layers, of_numpy]
WAYS.append(lambda: Network(width=SIDE, depth=2))


def in_parts(make: Callable[[], nn.Module], index: int, number: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model, and the rows of each of its parameters of which it has only some, by name."""
    model, rows, reason = building._build_in_parts(make, index, number)
    assert reason == ""
    assert model is not None
    return model, {name: rows[id(one)] for name, one in model.named_parameters() if id(one) in rows}


@pytest.mark.parametrize("make", WAYS)
@pytest.mark.parametrize(("index", "number"), [(0, 1), (0, 2), (1, 2), (2, 5), (139, 140)])
def test_each_part_is_that_of_the_whole(make: Callable[[], nn.Module], index: int, number: int) -> None:
    rng.seed_everything(5)
    whole = make()
    drawn = torch.rand(1)
    rng.seed_everything(5)
    model, rows = in_parts(make, index, number)
    assert torch.equal(drawn, torch.rand(1))
    assert rows
    assert list(model.state_dict()) == list(whole.state_dict())
    for name, parameter in whole.named_parameters():
        parts = torch.chunk(parameter.detach(), number)
        part = parts[index] if index < len(parts) else parameter.detach()[:0]
        own = model.get_parameter(name)
        assert own.requires_grad == parameter.requires_grad
        assert own.is_meta == (name in rows)
        assert torch.equal(rows[name], part) if own.is_meta else torch.equal(own, parameter), name
    assert all(torch.equal(buffer, model.get_buffer(name)) for name, buffer in whole.named_buffers())


def test_a_parameter_that_two_modules_share_stays_one() -> None:
    model, rows = in_parts(Language, 0, 2)
    assert model.get_parameter("head.weight") is model.get_parameter("tokens.weight")
    assert "tokens.weight" in rows


class Hidden(nn.Module):
    """A teacher that is no part of the model: in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [nn.Linear(SIDE, SIDE)]
        self.own = nn.Linear(SIDE, SIDE)


class Viewed(nn.Module):
    """A view of a weight that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(SIDE, SIDE), nn.Linear(SIDE, SIDE)
        self.view = self.first.weight.data


def written_by_numpy_later() -> nn.Module:
    model = Network(width=SIDE, depth=1)
    model.get_parameter("blocks.0.1.weight").detach().numpy()[:] = 1
    return model


def scaled_by_its_norm() -> nn.Module:
    model = Network(width=SIDE, depth=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(parameter.norm() + 1)
    return model


def tied_to_its_transpose() -> nn.Module:
    """Another parameter, of the same memory: other rows."""
    model = nn.Sequential(nn.Linear(SIDE, SIDE))
    model.register_parameter("tied", nn.Parameter(model.get_parameter("0.weight").data.t()))
    return model.append(nn.Linear(SIDE, SIDE))


def printed() -> nn.Module:
    """Torch itself looks at the values then, and asks no mode."""
    model = Network(width=SIDE, depth=1)
    assert "requires_grad" in str(model.get_parameter("blocks.0.1.weight"))
    return model


def listed() -> nn.Module:
    model = Network(width=SIDE, depth=1)
    assert model.get_parameter("blocks.0.1.weight").tolist()
    return model


def swallowed() -> nn.Module:
    """The error must not be lost in a model that goes on without it."""
    try:
        return scaled_by_its_norm()
    except RuntimeError:
        return Network(width=SIDE, depth=1)


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (Hidden, r"not only modules of the model hold Linear\.weight"),
    (Viewed, r"not only modules of the model hold Linear\.weight"),
    (written_by_numpy_later, r"not only modules of the model hold Linear\.weight"),
    (tied_to_its_transpose, r"Sequential\.tied is a view of Linear\.weight"),
    (printed, r"in parts it ends with RuntimeError: .*storage"),
    (listed, r"in parts it ends with RuntimeError: .*storage"),
    (scaled_by_its_norm, r"norm.* needs all of Linear\.weight, after another parameter was filled"),
    (swallowed, r"norm.* needs all of Linear\.weight, after another parameter was filled"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_what_cannot_be_built_in_parts_says_why(make: Callable[[], nn.Module], words: str) -> None:
    model, _, reason = building._build_in_parts(make, 0, 2)
    assert model is None
    assert re.search(words, reason), reason


def test_the_user_s_mistake_stays_the_user_s() -> None:
    def make() -> nn.Module:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        building._build_in_parts(make, 0, 2)
    assert not torch.nn.modules.module._global_parameter_registration_hooks


def build_and_compare(makes: list[Callable[[], nn.Module]], options: ParallelOptions) -> Callable[[], None]:
    """On each rank: a sharded model's weights are those of one that is not."""

    def work() -> None:
        logging.basicConfig(level=logging.INFO, force=True)
        with process_group(Environment.read(), 60, 60) as group:
            for make in makes:
                rng.seed_everything(5)
                whole = make()
                rng.seed_everything(5)
                model = build(make, group, options)
                own: dict[str, Any] = dict(model.named_parameters())
                for name, parameter in whole.named_parameters():
                    assert torch.equal(own[name].full_tensor(), parameter), name
                    assert own[name].to_local().numel() <= parameter.numel() // 2 + SIDE * 9
                print(f"{make.__name__} is the same")

    return work


@pytest.mark.parametrize(("ranks", "size"), [(2, None), (3, None), (4, 2)])
def test_a_sharded_model_has_the_weights_of_a_whole_one(tmp_path: Path, ranks: int, size: int | None) -> None:
    makes: list[Callable[[], nn.Module]] = [Language, copied_layers, scaled_by_its_norm]
    work = build_and_compare(makes, ParallelOptions("fsdp", shard_size=size))
    for ended in run_forked(tmp_path, work, ranks):
        assert ended.code == 0, ended.output
        assert [line for line in ended.output.splitlines() if line.endswith("is the same")][2:]
        assert "The whole model is built on each rank first: " in ended.output


def test_a_size_that_does_not_divide_the_ranks(tmp_path: Path) -> None:
    def work() -> None:
        with reported(), process_group(Environment.read(), 60, 60) as group:
            build(Network, group, ParallelOptions("fsdp", shard_size=2))

    ended = run_forked(tmp_path, work, 3)
    assert [one.code for one in ended] == [ExitCode.USAGE] * 3, ended
    assert "3 ranks cannot be divided into groups of 2: --shard-size 2" in ended[0].output


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_a_rank_needs_memory_for_its_part_and_one_parameter(tmp_path: Path) -> None:
    side, layers = 1024, 64  # 4 MB each
    whole = 4 * side * side * layers

    def build_some(number: int) -> dict[str, Tensor]:
        return in_parts(lambda: nn.Sequential(*(nn.Linear(side, side) for _ in range(number))), 1, 4)[1]

    def work() -> None:
        build_some(2)  # from here on torch's code is loaded
        before = memory("VmHWM")
        rows = build_some(layers)
        assert len(rows) == layers - 1  # the last one is whole
        print(f"needed {memory('VmHWM') - before}")

    (ended,) = run_forked(tmp_path, work, ranks=1)
    assert ended.code == 0, ended.output
    needed = int(ended.output.split()[-1])
    assert needed < whole / 4 * 1.3 + 8 * side * side


def memory(name: str) -> int:
    """Bytes, from Linux's own account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))
