"""A model of which every rank holds a shard: FSDP2, block by block."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import ParallelOptions
from isc_runtime.ranks.buffers import equalize_before_each_pass
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import is_sharded

logger = logging.getLogger("train")


@dataclass(frozen=True)
class Part:
    """Which part of each parameter is this rank's.

    Attributes:
        index: of the part.
        number: of parts; so many ranks together hold the model.
    """

    index: int
    number: int

    @classmethod
    def of(cls, options: ParallelOptions, group: Group) -> Part:
        """This rank's. Raises IscError: the ranks cannot be divided so."""
        number = options.shard_size or group.world_size
        if group.world_size % number:
            raise IscError(
                f"{group.world_size} ranks cannot be divided into groups of {number}",
                f"--shard-size {number}",
                "Give it a divisor of their number: the GPUs of a node, say.",
                ExitCode.USAGE,
            )
        return cls(group.rank % number, number)


def is_to_be_sharded(options: ParallelOptions, group: Group) -> bool:
    """Whether the ranks share one model."""
    return options.parallelism == "fsdp" and group.world_size > 1


def is_sharded_model(model: nn.Module) -> bool:
    """Whether FSDP2 has it."""
    return hasattr(model, "set_requires_gradient_sync")


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the model's outermost module lists; none if it has no list."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found


def check_model(model: nn.Module) -> None:
    """Neither an optimizer nor another rank can do with a parameter that waits for its first input."""
    if not isinstance(model, nn.Module):
        said = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise IscError(
            f"build_model returned {said}, and not an nn.Module",
            "model.py",
            "Let it return the model itself, made: return Network().",
            ExitCode.USAGE,
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise IscError(
            f"The model has no parameter that is trained: {type(model).__name__}",
            "build_model in model.py",
            "Keep its parts in attributes that are modules, an nn.ModuleList and not a list; freeze not all.",
            ExitCode.USAGE,
        )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if lazy := [name for name, tensor in tensors.items() if is_lazy(tensor)]:
        raise IscError(
            f"The model has lazy modules, whose parameters have no shape yet ({lazy[0]})",
            "build_model in model.py",
            "Give them their sizes, or call the model once in build_model.",
            ExitCode.USAGE,
        )


def shard(
    model: nn.Module, group: Group, options: ParallelOptions, rows: Mapping[int, Tensor], bf16: bool = False
) -> None:
    """Leaves this rank its part of each parameter. FSDP2 moves it to the device, block by block.

    Args:
        model: with the same weights on all ranks, on the CPU.
        group: the ranks.
        options: into how many parts it is divided.
        rows: this rank's part of the parameters that are on the meta device, by their id.
        bf16: whether it computes in that, and returns float32. Gradients are added up in float32, and the
            parameters stay as they are.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # a second, for those who shard

    if not blocks(model):
        logger.warning(
            "[FSDP] %s has no nn.ModuleList: it is sharded as one block, and each rank holds all of it while "
            "it computes. Put its layers into an nn.ModuleList.",
            type(model).__name__,
        )
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    mesh = _mesh(group, Part.of(options, group))
    named = {name: rows[id(one)] for name, one in model.named_parameters() if id(one) in rows}
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=replace(policy, output_dtype=torch.float32 if bf16 else None))
    _fill(model, named, group.device)
    if (
        bf16
    ):  # autocast would keep a copy of each weight that it casts, of all of them until the backward pass
        setattr(model, "forward_in_any", model.forward)  # noqa: B010  # mypy knows no other way
        model.forward = MethodType(_without_autocast, model)
    # As with replicas; FSDP2 does not do it.
    equalize_before_each_pass(model, group, lambda module: module.training)


def _without_autocast(model: nn.Module, *inputs: Any, **named: Any) -> Any:
    forward: Any = model.forward_in_any
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        return forward(*inputs, **named)


def _mesh(group: Group, part: Part) -> Any:
    """Neighbours, the ranks of a node say, gather the shards; gradients are added up over all ranks."""
    from torch.distributed.device_mesh import init_device_mesh

    if part.number == group.world_size:
        return init_device_mesh(group.device.type, (group.world_size,))
    shape = (group.world_size // part.number, part.number)
    return init_device_mesh(group.device.type, shape, mesh_dim_names=("replicate", "shard"))


@torch.no_grad()
def _fill(model: nn.Module, rows: dict[str, Tensor], device: torch.device) -> None:
    """Gives the parameters on the meta device memory, and their values, which are dropped one by one."""
    if not rows:
        return

    def memory(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor

    model._apply(memory)  # type: ignore[no-untyped-call]  # as `to_empty`, and the buffers stay
    for name, parameter in model.named_parameters():
        if name in rows:
            assert is_sharded(parameter)
            parameter.to_local().copy_(rows.pop(name))
