"""What ranks tell the master from a background thread, where a collective would meet another one's."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

Store = Any  # torch's rendezvous store: its type stubs neither export it nor know its `clone`


class Mailbox:
    """Letters to the master, in the ranks' rendezvous store.

    Args:
        store: through which the ranks found each other.
        rank: of this process.
        world_size: how many ranks there are.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store = store.clone()  # a connection of its own: a thread waits there
        self._rank = rank
        self._world_size = world_size

    def post(self, subject: str, value: object) -> None:
        """Tells the master something."""
        self._store.set(f"{subject}/{self._rank}", pickle.dumps(value).hex())

    def collect(self, subject: str) -> list[Any]:
        """Waits for what each rank has to tell of a subject, in the order of ranks. The master's."""
        keys = [f"{subject}/{rank}" for rank in range(self._world_size)]
        self._store.wait(keys, timedelta(days=1))  # whoever has an eye on the save gives up earlier
        values = [pickle.loads(bytes.fromhex(self._store.get(key).decode())) for key in keys]
        for key in keys:
            self._store.delete_key(key)
        return values
