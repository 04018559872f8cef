"""How a model is divided into what is sharded together; and what cannot be sharded at all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.shards import is_sharded


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of the model's outermost module lists; none if it has no list.

    A member without a `forward`, a list or a dict of modules say, is never called itself: its members are.
    Each block is named once.
    """
    found: list[nn.Module] = []
    for child in model.children():
        found += _members(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return list(dict.fromkeys(found))


def _members(module: nn.Module) -> list[nn.Module]:
    is_called = "forward" in vars(module) or type(module).forward is not nn.Module.forward
    if is_called:
        return [module]
    return [one for child in module.children() for one in _members(child)]


@dataclass(frozen=True)
class Division:
    """What of a model is sharded together.

    Attributes:
        groups: its blocks, those in one list that share parameters.
        shared: parameters of blocks that the rest of the model has, too: they are sharded with that.
        whole: parameters without a dimension or without a value, of which each rank keeps the whole.
    """

    groups: list[list[nn.Module]]
    shared: set[nn.Parameter]
    whole: set[nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> Division:
        """That of a model.

        Raises:
            IscError: it cannot be sharded, or a part of it has trained parameters of several types.
        """
        check_shardable(model)
        found = blocks(model)
        whole = set(filter(_stays_whole, model.parameters()))
        rest = _parameters_without(model, set(found))
        groups: list[list[nn.Module]] = []
        for block in found:
            own = set(block.parameters()) - rest - whole
            like = [group for group in groups if any(own & set(one.parameters()) for one in group)]
            groups = [group for group in groups if group not in like]
            groups.append([one for group in like for one in group] + [block])
        for group in groups:
            _check_types(model, {one for block in group for one in block.parameters()} - rest - whole)
        _check_types(model, rest - whole)
        return cls(groups, {one for block in found for one in block.parameters()} & rest, whole)


def _check_types(model: nn.Module, together: set[nn.Parameter]) -> None:
    """FSDP2 exchanges the gradients of what is sharded together in one piece of memory. Raises IscError."""
    names: dict[torch.dtype, str] = {}
    for name, one in model.named_parameters():
        if one in together and one.requires_grad:
            names.setdefault(one.dtype, name)
    if len(names) > 1:
        listed = ", ".join(f"{name} is {dtype}" for dtype, name in names.items())
        raise IscError(
            f"Parameters that are sharded together, and trained, are of several types: {listed}",
            "--parallelism fsdp",
            "Give all that are trained one type in build_model, float32 say: a GPU computes in bf16 all the "
            "same. What is frozen may have another one. Or train with --parallelism ddp.",
            ExitCode.USAGE,
        )


def _parameters_without(module: nn.Module, others: set[nn.Module]) -> set[nn.Parameter]:
    """A module's, but for those of these modules in it."""
    found = set(module.parameters(recurse=False))
    return found.union(*(_parameters_without(one, others) for one in module.children() if one not in others))


def _stays_whole(parameter: Tensor) -> bool:
    return not (parameter.dim() and parameter.numel())


def check_shardable(model: nn.Module) -> None:
    """Refuses what would be lost in silence, or fail in torch's own words. Raises IscError."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise IscError(
                "A sparse gradient cannot be that of a shard",
                f"{name}, an {type(module).__name__} with sparse=True, and --parallelism fsdp",
                "Make it with sparse=False, or train with --parallelism ddp.",
                ExitCode.USAGE,
            )
    for name, parameter in model.named_parameters():
        if _stays_whole(parameter):
            continue
        if parameter._backward_hooks or (parameter._post_accumulate_grad_hooks and not is_sharded(parameter)):
            raise IscError(
                f"{name} has a hook, which no gradient of its shards would call",
                "register_hook, --parallelism fsdp",
                "Change gradients after the backward pass, where train.py clips them; or train with "
                "--parallelism ddp.",
                ExitCode.USAGE,
            )
