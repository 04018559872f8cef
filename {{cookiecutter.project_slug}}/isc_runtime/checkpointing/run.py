"""What a training runs in."""

from __future__ import annotations

from dataclasses import dataclass

from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.logs import Scalars
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest


@dataclass(frozen=True)
class Run:
    """What a training runs in.

    Attributes:
        store: where its checkpoints live.
        group: its ranks.
        stop: whether a signal asked it to stop.
        scalars: where the costs of each save are noted.
    """

    store: Store
    group: Group
    stop: StopRequest
    scalars: Scalars
