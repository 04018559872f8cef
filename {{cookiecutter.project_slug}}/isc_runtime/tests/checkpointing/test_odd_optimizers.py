"""Optimizers whose states are not torch's own, of a model in shards: saved, and gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp  # once for all ranks, which are forks
from torch import Tensor

from isc_runtime.checkpointing.saving.sharded_save import with_sums
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.ranks.shards import is_sharded
from isc_runtime.tests.checkpointing.ranks_that_save import Training
from isc_runtime.tests.ranks.test_sharding import run
from isc_runtime.training.steps import take_step
from isc_runtime.tree import leaves, name_of


class Odd(torch.optim.Optimizer):
    """It wraps another one, and keeps beside it what it makes in its first step: slow weights in a list, the
    norm of a layer, what is left of a gradient along one dimension, and a gradient that is turned."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.kept = inner, list[dict[str, Tensor]]()
        super().__init__(inner.param_groups[0]["params"], {})
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        with torch.no_grad():
            new = [one_step(parameter) for parameter in parameters]
            self.kept = self.kept or new
            for kept, now, parameter in zip(self.kept, new, parameters, strict=True):
                for name, value in kept.items():
                    kept[name] = value.lerp(now[name], 0.1)
                parameter.grad.div_(1 + kept["norm"].sqrt() + kept["columns"].sum() + kept["rows"].mean())
                parameter.grad.add_(kept["turned"].t() if parameter.dim() > 1 else kept["turned"])
            self.inner.step()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.kept = state["kept"]


class Norms(torch.optim.Optimizer):
    """As NovoGrad: https://arxiv.org/abs/1905.11286."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                state, norm = self.state[parameter], (parameter.grad * parameter.grad).sum()
                state["norm"] = 0.9 * state["norm"] + 0.1 * norm if state else norm
                parameter.sub_(parameter.grad / state["norm"].sqrt(), alpha=0.1)


def one_step(parameter: Any) -> dict[str, Tensor]:
    gradient = parameter.grad
    return {
        "slow": parameter.detach().clone(),
        "norm": (gradient * gradient).sum(),
        "rows": gradient.square().mean(dim=-1, keepdim=True),
        "columns": gradient.square().mean(dim=0),
        "turned": gradient.t().clone() if gradient.dim() > 1 else gradient.clone(),
    }


class Kind(Training):
    """A training with one of these optimizers.

    Args:
        kind: "odd" or "norm".
        directory: of its checkpoints.
        group: its ranks.
        size: how many of them hold the model together.
    """

    def __init__(self, kind: str, directory: Path, group: Group, size: int | None) -> None:
        group.master(lambda: directory.mkdir(exist_ok=True))
        super().__init__(LocalStore(directory, group), group, ParallelOptions("fsdp", shard_size=size))
        parameters = self.model.parameters()
        other: Any = Odd(torch.optim.AdamW(parameters)) if kind == "odd" else Norms(parameters, {})
        self.optimizer = other

    def step(self) -> None:
        torch.autograd.backward(self.replica(torch.randn(4, 8)).square().mean())
        take_step(self.optimizer, lambda _: torch.zeros(()), self.group)
        self.optimizer.zero_grad()
        self.sampler.advance()

    def steps(self, number: int) -> Kind:
        """So many, from what is there, each of them saved."""
        self.checkpointer.restore()
        for _ in range(number):
            self.step()
            self.checkpointer.save()
            self.checkpointer.finish()
            assert self.checkpointer.failed_saves == 0
        return self

    def weights(self) -> list[Tensor]:
        """As they are on this rank."""
        return [value.to_local() for value in self.model.state_dict().values()]

    def divided(self) -> dict[str, list[int | None]]:
        """For each dimension of the ranks that of each tensor of the optimizer's state that they divide."""
        sharded = [(path, leaf) for path, leaf in leaves(self.optimizer.state_dict()) if is_sharded(leaf)]
        return {
            name_of(path): [getattr(one, "dim", None) for one in leaf.placements] for path, leaf in sharded
        }


def work(directory: Path, size: int | None) -> Callable[[Group], None]:
    """On each rank: a training in one go and one in two; then one goes on from what others have saved."""

    def in_one_go_and_in_two(group: Group) -> None:
        for kind in ("odd", "norm"):
            whole, _, second = (
                Kind(kind, directory / f"{kind} {name}", group, size).steps(number)
                for name, number in [("whole", 4), ("two", 2), ("two", 2)]
            )
            assert all(map(torch.equal, second.weights(), whole.weights())), kind
            assert second.divided() == whole.divided(), kind
            before = Kind(kind, directory / f"{kind} before", group, size).steps(2)
            assert before.divided() == whole.divided(), kind
        parameter = before.model.weight
        unlike = {"norm": (parameter * parameter).sum()} if group.is_master else {}
        with pytest.raises(RankError, match="summands of different tensors"):
            with_sums(unlike, group)  # and nobody waits

    return in_one_go_and_in_two


def test_a_resume_is_bit_for_bit_the_same_and_any_ranks_go_on(tmp_path: Path) -> None:
    """On three ranks, which have unequal parts, and on two pairs."""
    for ranks, size in [(3, None), (4, 2)]:
        run(tmp_path, work(tmp_path, size), ranks)
        for kind in ("odd", "norm"):
            for name in ("whole", "two"):
                shutil.rmtree(tmp_path / f"{kind} {name}")
