"""The buffers of modules, which are the first rank's on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import as_bytes, is_expanded

Look = tuple[tuple[int, ...], torch.dtype]  # the shape and the type of a buffer
Looks = dict[str, Look]


def equalize_before_each_pass(
    called: nn.Module, group: Group, is_due: Callable[[nn.Module], bool], inside: str = ""
) -> None:
    """From now on a model's buffers get the first rank's values whenever it is called, as far as they look
    as they do there: a mask that is as long as the longest text that a rank has seen is left as it is.

    All ranks call the model equally often. The first rank tells the others when its own ones have changed
    their looks, which costs a moment in each call.

    Args:
        called: the model, or what holds it.
        group: the ranks.
        is_due: whether this call of `called` is one of those; on all ranks alike.
        inside: the name of the model in `called`.
    """
    told: WeakKeyDictionary[nn.Module, Looks] = WeakKeyDictionary()  # a copy of a model has its hooks, too

    # It talks to other ranks, which is no part of a graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before(module: nn.Module, _: object) -> None:
        if not is_due(module):
            return
        named = _plain_buffers([module.get_submodule(inside)])
        own = {name: _look(buffer) for name, buffer in named.items()}
        if group.broadcast(torch.tensor(own != told.get(module, {}))):  # on the CPU: no GPU is waited for
            told[module] = group.master(lambda: own)
        _take_first_ones(named, told.get(module, {}), group)

    called.register_forward_pre_hook(before)


def equalize_buffers(modules: Iterable[nn.Module], group: Group) -> None:
    """Gives the buffers of modules the values that they have on the first rank: running statistics, say.

    A collective. A checkpoint holds the first rank's, so a resume does the same. The ranks tell each other
    first which of them look alike everywhere: others are left as they are.

    Args:
        modules: the same ones on all ranks.
        group: the ranks.
    """
    if group.world_size == 1:
        return
    named = _plain_buffers(modules)
    own = {name: _look(buffer) for name, buffer in named.items()}
    of_all = group.gather(own)
    first = of_all[0]
    alike = {name: look for name, look in first.items() if all(one.get(name) == look for one in of_all)}
    _take_first_ones(named, alike, group)


def _plain_buffers(modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    named = {
        f"{number}.{name}": buffer
        for number, module in enumerate(modules)
        for name, buffer in module.named_buffers()
        if is_plain(buffer)
    }
    first_names = {id(buffer): name for name, buffer in reversed(named.items())}  # shared ones once
    return {name: named[name] for name in sorted(first_names.values())}


def _look(buffer: Tensor) -> Look:
    return tuple(buffer.shape), buffer.dtype


@torch.no_grad()
def _take_first_ones(named: dict[str, Tensor], looks: Looks, group: Group) -> None:
    """Gives buffers the first rank's values. A collective.

    Args:
        named: buffers of this rank.
        looks: of those that the first rank sends; what looks different here is left as it is.
        group: the ranks.
    """
    if not looks:
        return
    own = {name: named[name] for name, look in looks.items() if name in named and _look(named[name]) == look}
    # As bytes, of whatever type: one collective, and gloo does not know all types.
    parts = [
        as_bytes(own[name])
        if name in own
        else torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8, device=group.device)
        for name, (shape, dtype) in looks.items()
    ]
    values = group.broadcast(torch.cat(parts))
    if group.is_master:
        return
    # They may be kept for a backward pass, whose values are these: the model was called twice before it.
    with _unsafe_preserve_version_counter(tuple(own.values())):
        begin = 0
        for (name, (shape, dtype)), part in zip(looks.items(), parts, strict=True):
            if name in own:
                value = values[begin : begin + len(part)].clone()  # where one of this type may begin
                own[name].copy_(value.view(dtype).view(shape))
            begin += len(part)


def is_plain(buffer: torch.Tensor) -> bool:
    """Whether its values lie in memory one by one, so that others can take their places."""
    is_other = buffer.layout is not torch.strided or buffer.is_nested or buffer.is_quantized
    return not (is_other or is_expanded(buffer))
