"""The buffers of modules become the first rank's, whatever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from isc_runtime.environment import Environment
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.buffers import equalize_before_each_pass, equalize_buffers
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.parallel import parallelize
from isc_runtime.tests.processes import run_forked
from isc_runtime.tests.ranks.test_parallel import Varying, first_loss
from isc_runtime.tests.small_training import FEATURES


def with_buffers() -> nn.Module:
    """Some that neither gloo nor DistributedDataParallel can exchange."""
    model = Varying()
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    model.register_buffer("expanded", torch.ones(1).expand(3))
    model.register_buffer("conjugate", torch.full((3,), 1 + 1j).conj())
    for dtype in (torch.float8_e4m3fn, torch.int16, torch.uint16, torch.complex64, torch.bool):
        model.register_buffer(str(dtype).removeprefix("torch."), torch.ones(3).to(dtype))
    return model


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_buffers_of_all_kinds(tmp_path: Path, parallelism: str) -> None:
    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            model = with_buffers()
            replica = parallelize(model, group, first_loss, ParallelOptions(parallelism))
            replica(torch.randn(4, FEATURES))
            buffers = dict(model.named_buffers())
            buffers["int16"].fill_(group.rank)
            buffers["conjugate"].mul_(1 + group.rank)
            buffers["float8_e4m3fn"].copy_(torch.full((3,), 2.0 + group.rank))
            equalize_buffers([model], group)
            assert buffers["int16"].tolist() == [0, 0, 0]
            assert buffers["conjugate"].tolist() == [1 - 1j] * 3
            assert buffers["float8_e4m3fn"].float().tolist() == [2, 2, 2]
            model.register_buffer("mask", torch.ones(3 + group.rank))  # as long as what this rank has seen
            if group.is_master:
                model.register_buffer("cache", torch.ones(2))
            buffers["int16"].fill_(group.rank)
            equalize_buffers([model], group)
            assert buffers["int16"].tolist() == [0, 0, 0]
            assert len(dict(model.named_buffers())["mask"]) == 3 + group.rank

    for ended in run_forked(tmp_path, work):
        assert ended.code == 0, ended.output


def test_a_model_with_buffers_can_be_compiled_as_a_whole() -> None:
    model, group = nn.BatchNorm1d(2), Group(Environment(), torch.device("cpu"))
    equalize_before_each_pass(model, group, lambda _: True)
    torch._dynamo.reset()
    assert torch.compile(model, backend="eager")(torch.ones(3, 2)).shape == (3, 2)


class Masked(Varying):
    """Its mask is as long as the longest text that this rank has seen, and kept for the backward pass."""

    mask: torch.Tensor
    late: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1))

    def forward(self, inputs: torch.Tensor, length: int = 1) -> torch.Tensor:
        if length > len(self.mask):
            self.register_buffer("mask", torch.arange(1.0, length + 1), persistent=False)
        if length > 4 and not hasattr(self, "late"):
            self.register_buffer("late", torch.zeros(()))
        output: torch.Tensor = super().forward(inputs) * self.mask[:1]
        return output


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
@pytest.mark.parametrize("longest", [0, 1])
def test_a_mask_that_has_grown_on_one_rank_is_left_as_it_is(
    tmp_path: Path, parallelism: str, longest: int
) -> None:
    """And the others are the first rank's all the same, in each pass; those that are new everywhere, too."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            model = Masked()
            replica = parallelize(model, group, first_loss, ParallelOptions(parallelism))
            for length in (1, 3, 2, 4):
                own = length if group.rank == longest else 1
                before = len(model.mask)
                replica(torch.randn(4, FEATURES) + group.rank, own)
                assert model.mask.tolist() == [*map(float, range(1, max(own, before) + 1))]
                seen = group.gather(int(model.get_buffer("norm.num_batches_tracked")))
                assert len(set(seen)) == 1
            replica(torch.randn(4, FEATURES), 5)  # all of them look alike from here on
            for name in ("mask", "late", "norm.running_mean"):
                model.get_buffer(name).fill_(7.0 + group.rank)
            loss = replica(torch.randn(4, FEATURES), 5) + replica(torch.randn(4, FEATURES), 5)
            torch.autograd.backward(loss.sum())
            assert model.mask.tolist() == [7.0] * 5
            assert model.late == 7

    for ended in run_forked(tmp_path, work):
        assert ended.code == 0, ended.output
