"""The weights of modules, which should be the same on all ranks: a checkpoint holds the first one's."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import is_sharded

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes


def unlike_weights(modules: Mapping[str, nn.Module], group: Group) -> tuple[int, str] | None:
    """The first rank whose weights are not those of rank 0, and the first one of them. A collective.

    Each parameter is summed up as integers, which is exact in whatever order. It waits for the device.

    Args:
        modules: by name, the same ones on all ranks; what is sharded is not looked at.
        group: the ranks.
    """
    if group.world_size == 1:
        return None
    sums: dict[str, int] = {}
    with contextlib.suppress(Exception):  # a tensor without bytes of its own; nobody may be waited for
        sums = _sums(modules)
    own = hash(tuple(sums.values()))
    highest, lowest = group.largest(own, -own)  # which costs the same whatever the number of ranks
    if highest == -lowest:
        return None
    for rank, others in enumerate(all_sums := group.gather(sums)):
        for name, value in others.items():
            if all_sums[0].get(name, value) != value:  # a rank may not have been able to sum up
                return rank, name
    return None


@torch.no_grad()
def _sums(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    found = {
        f"{part}.{name}": _sum(parameter)
        for part, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.layout is torch.strided and not (parameter.is_meta or is_sharded(parameter))
    }
    by_device: dict[torch.device, list[str]] = {}
    for name, value in found.items():
        by_device.setdefault(value.device, []).append(name)
    sums: dict[str, int] = {}
    for names in by_device.values():  # one wait for each device
        sums |= zip(names, torch.stack([found[name] for name in names]).tolist(), strict=True)
    return {name: sums[name] for name in found}


def _sum(parameter: Tensor) -> Tensor:
    values = parameter.detach().resolve_conj().resolve_neg()
    values = torch.view_as_real(values) if values.is_complex() else values
    return values.reshape(-1).view(INTEGERS[values.element_size()]).sum(dtype=torch.int64)
