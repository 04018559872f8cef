"""Muon whose ranks share the work: each makes the steps of some of the matrices, for all."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration: https://kellerjordan.github.io/posts/muon/


class SharedMuon(torch.optim.Optimizer):
    """Muon for matrices, convolutions included, and momentum's sign for the rest.

    Args:
        parameters: what is trained, the same on all ranks.
        lr: the learning rate.
        momentum: how much of it is kept in a step.
        weight_decay: as AdamW's.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.is_shared = dist.is_initialized()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes a step with the gradients that are there. A collective."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if self.is_shared else (0, 1)
        for group in self.param_groups:
            for number, parameter in enumerate(group["params"]):
                update = self._kept(parameter, group)
                if parameter.ndim > 1 and number % ranks == rank:
                    update.copy_(orthogonal(update.flatten(1)).view_as(update))
                if parameter.ndim > 1 and self.is_shared:
                    dist.broadcast(update, src=number % ranks)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * (update if parameter.ndim > 1 else update.sign()))

    def _kept(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """A copy of the momentum, after this step's gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        if parameter.grad is not None:
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        kept: Tensor = state["momentum"].clone()
        return kept


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix whose singular values are all 1."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    result: Tensor = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(steps):
        square = result @ result.T
        result = a * result + (b * square + c * square @ square) @ result
    return result.T if is_tall else result
