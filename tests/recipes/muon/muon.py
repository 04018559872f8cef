"""Two optimizers as one: torch's Muon, which takes matrices only, and AdamW for what is none."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices, AdamW for the rest.

    Args:
        parameters: what is trained.
        lr: the learning rate of both; Muon's step is scaled so that it is as large as AdamW's.
        weight_decay: of both.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        parameters = list(parameters)
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        matrices = [parameter for parameter in parameters if parameter.ndim == 2]
        others = [parameter for parameter in parameters if parameter.ndim != 2]
        self.members: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay),
        )
        self._share_groups()

    def _share_groups(self) -> None:
        """A scheduler changes the groups of this one: they are the groups of both."""
        self.param_groups = [group for member in self.members for group in member.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Takes a step with the gradients that are there."""
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {str(number): member.state_dict() for number, member in enumerate(self.members)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the states of both."""
        for number, member in enumerate(self.members):
            member.load_state_dict(state_dict[str(number)])
        self._share_groups()
