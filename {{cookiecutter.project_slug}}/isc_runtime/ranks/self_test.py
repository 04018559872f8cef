"""Whether each rank computes rightly, and reaches the others: found out before a second of training."""

from __future__ import annotations

import logging
import time
from statistics import median_low

import torch

from isc_runtime.errors import IscError
from isc_runtime.ranks.device import name_of
from isc_runtime.ranks.group import Group

SIZE = {"cuda": 4096, "mps": 1024, "cpu": 64}  # of the matrices of the self-test
ROUNDS = 20
SLOW, SLOW_SECONDS = 2.0, 0.2  # so many times, and so many seconds, slower than the others is worth a line
BROKEN = "The device or its link is broken: start again on another node, and tell who runs this one."

logger = logging.getLogger("train")


def check_devices(group: Group) -> None:
    """Lets each rank compute what it knows, and all ranks add up: before a second of training is spent.

    A collective. The log says where the training computes, and which rank is much slower than the others.

    Raises:
        RankError: a device computes wrongly, or not at all.
    """
    seconds = group.gather(group.each(lambda: _seconds_of_known_product(group.device)))
    total = float(group.sum(torch.tensor(float(group.rank + 1), device=group.device)))
    expected = group.world_size * (group.world_size + 1) / 2
    group.each(lambda: _check_sum(total, expected))
    logger.info("[DEVICE] Training on %d x %s", group.world_size, name_of(group.device))
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    usual = median_low(seconds)
    if seconds[slowest] > SLOW * usual and seconds[slowest] - usual > SLOW_SECONDS:
        hosts = group.gather(group.environment.hostname)
        logger.warning(
            "[DEVICE] rank %d on %s is slow: its self-test took %.2f s, of others %.2f s. All wait for it.",
            *(slowest, hosts[slowest], seconds[slowest], usual),
        )


def _seconds_of_known_product(device: torch.device) -> float:
    """How long it takes to multiply matrices of small whole numbers, of which the product is exact."""
    size = SIZE[device.type]
    try:
        rows = torch.arange(size, device=device).remainder(7).to(torch.float32)
        matrix, ones = rows.expand(size, size).contiguous(), torch.ones(size, size, device=device)
        expected = rows.sum().item()
        is_right = (matrix @ ones == expected).all()  # the first one brings up the library
        bool(is_right)  # waits for it
        begun = time.monotonic()
        for _ in range(ROUNDS):
            is_right &= (matrix @ ones == expected).all()
        if not is_right:
            raise IscError("The device computes wrongly", name_of(device), BROKEN)
        return time.monotonic() - begun
    except RuntimeError as error:
        raise IscError(f"The device does not compute ({error})", device, BROKEN) from error


def _check_sum(total: float, expected: float) -> None:
    if total != expected:
        raise IscError(f"The ranks' sum is {total:g} and not {expected:g}", "all_reduce", BROKEN)
