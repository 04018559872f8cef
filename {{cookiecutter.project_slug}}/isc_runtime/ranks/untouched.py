"""A forward pass that does not count: it leaves the model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from isc_runtime.ranks.shards import is_expanded, is_sharded

SMALL = 2**20  # elements; a larger frozen parameter is a backbone's and not a codebook's


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Takes back what the block changes in a model without a step: buffers and codebooks, where they are; and
    what it binds in modules, such as a cache, a count, a mask, or that they are in evaluation.
    """
    is_bound_anew = any(is_sharded(parameter) for parameter in model.parameters())  # all the time
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in model.modules():
        own: list[dict[str, Any]] = [vars(module), module._buffers]
        own += [] if is_bound_anew else [module._parameters]
        tables += [(table, dict(table)) for table in own]
    tensors = [*model.buffers(), *model.parameters()]
    copies = [(tensor, tensor.detach().clone()) for tensor in tensors if may_change(tensor)]
    yield
    for table, before in tables:
        for name in table.keys() - before.keys():
            del table[name]
        for name, value in before.items():
            if table.get(name) is not value:
                table[name] = value
    for tensor, copy in copies:
        put_back(tensor, copy)


@torch.no_grad()
def put_back(tensor: torch.Tensor, copy: torch.Tensor) -> None:
    """Gives a tensor the values that it had, where they were; and the shape and type, as observers of what
    is to be quantized resize their buffers."""
    if is_of_other_form(tensor, copy):
        tensor.data = copy.clone()
    elif not (isinstance(tensor, nn.Parameter) and torch.equal(tensor, copy)):
        tensor.copy_(copy)


def is_of_other_form(tensor: torch.Tensor, copy: torch.Tensor) -> bool:
    """Whether a tensor has changed its shape or its type since it was copied."""
    return (tensor.shape, tensor.dtype) != (copy.shape, copy.dtype)


def may_change(tensor: torch.Tensor) -> bool:
    """Whether a forward pass may change the values of a buffer, or of a parameter, where they are."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized or is_expanded(tensor):
        return False
    if not isinstance(tensor, nn.Parameter):
        return True
    is_plain = type(tensor) is nn.Parameter and tensor.is_floating_point() and tensor.element_size() > 1
    return is_plain and not tensor.requires_grad and tensor.numel() <= SMALL
