"""What torch itself says of a model in shards is said in words, with what to do; each is really made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.building import build
from isc_runtime.ranks.explained import explained
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.tests.ranks.test_sharding import run

INPUTS = torch.ones(2, 4)


def by_a_method(model: nn.Module) -> None:
    model.get_submodule("0")(INPUTS)  # the model would make its weights whole


def with_a_penalty(model: nn.Module) -> None:
    penalty: Tensor = sum(weight.square().sum() for weight in model.parameters())  # type: ignore[assignment]
    torch.autograd.backward(model(INPUTS).square().mean() + penalty)


def with_forces(model: nn.Module) -> None:
    inputs = INPUTS.clone().requires_grad_()
    (forces,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    torch.autograd.backward(forces.square().sum())


def by_rprop(model: nn.Module) -> None:
    torch.autograd.backward(model(INPUTS).square().mean())
    torch.optim.Rprop(model.parameters()).step()


WAYS: dict[Callable[[nn.Module], None], tuple[str, str]] = {
    by_a_method: ("met a tensor that is whole, in aten.", "call these, and not what is in them"),
    with_a_penalty: ("met a tensor that is whole, in aten.", "as a penalty is"),
    with_forces: ("needs a weight in shards that is not whole any more", "penalty on gradients"),
    by_rprop: ("cannot compute aten.", "Rprop is such a one"),
}


def test_what_shards_cannot_do_says_what_to_do(tmp_path: Path) -> None:
    def work(group: Group) -> None:
        for way, (what, hint) in WAYS.items():
            options = ParallelOptions("fsdp")
            made = build(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), group, options)
            model = parallelize(made, group, lambda _: torch.zeros(()), options)
            with pytest.raises(RuntimeError) as error:
                way(model)
            found = explained(error.value)
            assert found is not None, (way, error.value)
            assert found.__cause__ is error.value
            assert what in str(found), way
            assert hint in str(found), way
            assert "--parallelism ddp" in str(found)

    run(tmp_path, work)


def test_other_errors_stay_what_they_are() -> None:
    assert explained(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert explained(ValueError("put_ does not have a deterministic implementation")) is None
