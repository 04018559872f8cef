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
from isc_runtime.ranks.division import Division, blocks
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import is_sharded

logger = logging.getLogger("train")
_groups: list[Group] = []  # of each model that is sharded


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


def group_of_one_model() -> Group | None:
    """The ranks, if they hold one model together: all of them must call it equally often."""
    return _groups[-1] if _groups else None


def is_sharded_model(model: nn.Module) -> bool:
    """Whether FSDP2 has it."""
    return hasattr(model, "set_requires_gradient_sync")


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
    division = group.each(lambda: Division.of(model))
    _groups.append(group)
    for parameter in model.parameters():
        if not parameter.is_contiguous():  # as in channels_last: FSDP2 takes no such ones
            parameter.data = parameter.data.contiguous()
    mesh = _mesh(group, Part.of(options, group))
    attributes = {name: dict(vars(one)) for name, one in model.named_parameters()}
    named = {name: rows[id(one)] for name, one in model.named_parameters() if id(one) in rows}
    others = division.shared | division.whole
    for together in division.groups:
        fully_shard(
            together[0] if len(together) == 1 else together,
            mesh=mesh,
            mp_policy=policy,
            ignored_params=others,
        )
    last = replace(policy, output_dtype=torch.float32 if bf16 else None)
    fully_shard(model, mesh=mesh, mp_policy=last, ignored_params=division.whole)
    _fill(model, named, group.device)
    for parameter in division.whole:
        _keep_equal(parameter, group)
    for name, parameter in model.named_parameters():
        vars(parameter).update(attributes[name])
    for module in filter(is_sharded_model, model.modules()):
        type(module).__deepcopy__ = _refuse_to_copy  # type: ignore[attr-defined]  # a class that FSDP2 made
    if (
        bf16
    ):  # autocast would keep a copy of each weight that it casts, of all of them until the backward pass
        setattr(model, "forward_in_any", model.forward)  # noqa: B010  # mypy knows no other way
        model.forward = MethodType(_without_autocast, model)
    # As with replicas; FSDP2 does not do it.
    equalize_before_each_pass(model, group, _AfterAPass(model, group).is_due)


class _AfterAPass:
    """Whether a model's buffers are to be made equal before a pass: of one that has none, or makes any in its
    first pass in training, they never are, and no rank waits for another."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        self._group, self._passes = group, 0
        self._has_buffers = True if any(True for _ in model.buffers()) else None

    def is_due(self, module: nn.Module) -> bool:
        """Before a pass. A collective before the second one in training, of a model that began without."""
        if not module.training:
            return False
        self._passes += 1
        if self._has_buffers is None and self._passes > 1:
            self._has_buffers = any(self._group.largest(any(True for _ in module.buffers())))
        return bool(self._has_buffers)


def _keep_equal(parameter: nn.Parameter, group: Group) -> None:
    """Moves a parameter that is not sharded to the device; its gradient is the mean of all ranks from now on,
    as FSDP2 makes that of the others."""
    parameter.data = parameter.data.to(group.device)
    if not (parameter.is_floating_point() or parameter.is_complex()):
        return
    is_trained = parameter.requires_grad
    parameter.requires_grad_()  # torch takes no hook without; it may be trained later
    parameter.register_hook(  # type: ignore[no-untyped-call]  # torch's own are not
        lambda gradient: group.sum(gradient.clone()).div_(group.world_size)
    )
    parameter.requires_grad_(is_trained)


def _refuse_to_copy(module: nn.Module, _: object) -> None:
    """What copy.deepcopy calls."""
    raise IscError(
        f"A model in shards cannot be copied: a {type(module).__mro__[2].__name__}",
        "copy.deepcopy, AveragedModel, --parallelism fsdp",
        "For an average keep parameter.detach().clone() of each of its parameters, which are shards as well, "
        "in an object with state_dict and load_state_dict; or train with --parallelism ddp.",
        ExitCode.USAGE,
    )


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
