"""A forward pass that does not count leaves the model as it was, whatever the model does in it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from isc_runtime.environment import Environment
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.ranks.untouched import untouched
from isc_runtime.tests.processes import run_forked


class Busy(nn.Module):
    """Counts, caches, makes a mask, changes statistics and a codebook."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.calls = 0
        self.cache: torch.Tensor | None = None
        self.codes = nn.Parameter(torch.ones(2), requires_grad=False)
        self.mask: torch.Tensor | None
        self.register_buffer("mask", None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        hidden: torch.Tensor = self.norm(self.linear(inputs))
        self.cache = hidden
        self.codes.data.mul_(2)
        self.mask = torch.ones(3)
        if not hasattr(self, "more"):
            self.register_buffer("more", torch.ones(1))
            self.anew = 3
        return hidden


def test_what_a_forward_pass_changes_is_taken_back() -> None:
    model = Busy()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    with untouched(model):
        model.eval()
        model.norm.train()
        model(torch.ones(3, 2))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.calls, model.cache, model.mask, hasattr(model, "anew")) == (0, None, None, False)
    assert [model.training, model.norm.training, model.linear.training] == [True, False, True]


def test_what_a_forward_pass_resizes_has_its_shape_again() -> None:
    """As the observers of each channel do, in evaluation too: from none to as many as there are."""
    module = nn.Module()
    module.register_buffer("lowest", torch.tensor([]))
    module.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
    lowest, counts = dict(module.named_buffers()).values()
    with untouched(module):
        lowest.resize_(4).fill_(1.0)
        counts.data = torch.ones(2)
    assert module.lowest is lowest
    assert lowest.shape == (0,)
    assert (counts.tolist(), counts.dtype) == ([0, 0], torch.int64)


def test_a_model_that_ranks_share_can_be_copied_as_one_alone(tmp_path: Path) -> None:
    """An average of weights copies it; what the first pass of the ranks has left in it cannot be copied."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            model = Busy()
            parallelize(model, group, lambda one: one(torch.ones(3, 2)).sum(), ParallelOptions())
            copy.deepcopy(model)
            print(model.calls)

    for ended in run_forked(tmp_path, work):
        assert (ended.code, ended.output.splitlines()[-1]) == (0, "0"), ended.output
