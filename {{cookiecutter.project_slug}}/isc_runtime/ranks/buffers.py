"""The buffers of modules, which are the first rank's on all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import is_expanded


@torch.no_grad()
def equalize_buffers(modules: Iterable[nn.Module], group: Group, is_asked: bool = True) -> None:
    """Gives the buffers of modules the values that they have on the first rank: running statistics, say.

    A collective. A checkpoint holds the first rank's, so a resume does the same.

    Args:
        modules: the same ones on all ranks.
        group: the ranks.
        is_asked: whether the ranks tell each other first which of them look alike everywhere. Others, such as
            a mask that is as long as the longest text that a rank has seen, are left as they are.
    """
    if group.world_size == 1:
        return
    named = {
        f"{number}.{name}": buffer
        for number, module in enumerate(modules)
        for name, buffer in module.named_buffers()
        if is_plain(buffer)
    }
    found = {id(buffer): name for name, buffer in reversed(named.items())}  # shared ones once
    names = sorted(found.values())
    if is_asked:
        looks = {name: (tuple(named[name].shape), str(named[name].dtype)) for name in names}
        of_all = group.gather(looks)
        names = [name for name in names if all(other.get(name) == looks[name] for other in of_all)]
    buffers = [named[name] for name in names]
    if not buffers:
        return
    # As bytes, of whatever type: one collective, and gloo does not know all types.
    values = group.broadcast(torch.cat([buffer.reshape(-1).view(torch.uint8) for buffer in buffers]))
    begin = 0
    for buffer in buffers:
        own = values[begin : begin + buffer.nbytes].clone()  # where a value of this type may begin
        buffer.copy_(own.view(buffer.dtype).view(buffer.shape))
        begin += buffer.nbytes


def is_plain(buffer: torch.Tensor) -> bool:
    """Whether its values lie in memory one by one, so that others can take their places."""
    is_other = buffer.layout is not torch.strided or buffer.is_nested or buffer.is_quantized
    return not (is_other or is_expanded(buffer))
