"""What of a model is sharded together, what each rank keeps whole, and what cannot be sharded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.division import Division, blocks, check_shardable
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.parallel import parallelize, part_of_batch
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.shards import is_sharded
from isc_runtime.tests.ranks.test_sharding import run

WIDTH = 132  # so that weights are large enough to be built in parts


class Prompts(nn.Module):
    """Lists of parameters, and layers whose holder is never called; a parameter without values; settings."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = nn.ModuleList(
            [nn.ParameterList([nn.Parameter(torch.ones(WIDTH))]), nn.ParameterDict({"a": torch.ones(1)})]
        )
        self.layers = nn.ModuleList([nn.Module()])
        self.layers[0].layer = nn.Linear(WIDTH, WIDTH)
        self.none = nn.Parameter(torch.zeros(0, WIDTH))
        for number, parameter in enumerate(self.parameters()):
            setattr(parameter, "_optim", number)  # noqa: B010  # as S4 does it

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = self.prompts
        hidden: Tensor = (inputs + first[0]) * second["a"]  # type: ignore[index]
        hidden = self.layers[0].layer(hidden)  # type: ignore[operator]
        return hidden + self.none.sum()


def test_what_is_never_called_is_no_block() -> None:
    model = Prompts()
    assert blocks(model) == [model.layers[0].layer]
    assert Division.of(model).whole == {model.none}


def test_a_model_in_shards_has_lists_of_parameters_and_what_was_noted_of_each(tmp_path: Path) -> None:
    def work(group: Group) -> None:
        torch.manual_seed(1)
        whole, noted = Prompts(), dict[str, Any]()
        torch.manual_seed(1)
        options = ParallelOptions("fsdp")
        model = parallelize(build(Prompts, group, options), group, lambda _: torch.zeros(()), options)
        inputs = torch.randn(2, WIDTH)
        for one in (whole, model):
            torch.autograd.backward(one(inputs).square().mean())
        for name, parameter in model.named_parameters():
            noted[name] = getattr(parameter, "_optim", "forgotten")
            assert is_sharded(parameter.grad) == (name != "none")
            own: Any = parameter.grad.full_tensor() if is_sharded(parameter.grad) else parameter.grad
            torch.testing.assert_close(own, whole.get_parameter(name).grad)
        assert noted == {name: value._optim for name, value in whole.named_parameters()}  # type: ignore[attr-defined]

    run(tmp_path, work)


def halve(gradient: Tensor) -> Tensor:
    return gradient / 2


def hooked() -> nn.Module:
    model = nn.Linear(WIDTH, WIDTH)
    model.weight.register_hook(halve)  # type: ignore[no-untyped-call]
    return model


def sparse() -> nn.Module:
    return nn.Sequential(nn.Embedding(4, 4, sparse=True))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (hooked, r"weight has a hook, which no gradient of its shards would call"),
        (sparse, r"sparse gradient cannot.*: 0, an Embedding with sparse=True"),
    ],
)
def test_what_cannot_be_sharded_says_so(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(IscError, match=said) as error:
        check_shardable(make())
    assert error.value.exit_code == ExitCode.USAGE
    with pytest.raises(IscError, match=said):
        Division.of(make())


def test_a_hook_is_refused_whenever_it_is_registered(tmp_path: Path) -> None:
    """Torch would take it, and never call it."""

    def work(group: Group) -> None:
        options = ParallelOptions("fsdp")
        with pytest.raises(RankError, match="weight has a hook"):
            build(hooked, group, options)
        model = build(lambda: nn.Linear(WIDTH, WIDTH), group, options)
        parallelize(model, group, lambda _: torch.zeros(()), options)
        with part_of_batch(model, is_last=True):
            model(torch.ones(1, WIDTH))
        model.get_parameter("weight").register_hook(halve)  # type: ignore[no-untyped-call]
        with pytest.raises(IscError, match="weight has a hook"), part_of_batch(model, is_last=True):
            pass

    run(tmp_path, work)
