"""LAMB (https://arxiv.org/abs/1904.00962): Adam, with a step that is in proportion to a layer's weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """LAMB.

    Args:
        parameters: what is trained.
        lr: the learning rate.
        betas: how much of the two moments is kept in a step.
        eps: keeps the division from overflowing.
        weight_decay: as AdamW's.
        largest_ratio: of the norms of weights and step.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        largest_ratio: float = 10.0,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(parameters, settings)
        self.largest_ratio = largest_ratio

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes a step with the gradients that are there."""
        for group in self.param_groups:
            group["step"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        (kept, kept_square), step = group["betas"], group["step"]
        mean = state["mean"].lerp_(gradient, 1 - kept) / (1 - kept**step)
        square = state["square"].lerp_(gradient.square(), 1 - kept_square) / (1 - kept_square**step)
        update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * parameter
        weight, size = parameter.norm(), update.norm()
        ratio = torch.where((weight > 0) & (size > 0), weight / size, 1.0).clamp(max=self.largest_ratio)
        parameter.sub_(group["lr"] * ratio * update)
