"""A folder of checkpoints on this machine."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from isc_runtime.checkpointing.on_disk.durable import TEMPORARY_SUFFIX
from isc_runtime.checkpointing.on_disk.entries import PAYLOAD
from isc_runtime.checkpointing.on_disk.layout import LocalLayout
from isc_runtime.checkpointing.stores.lock import take_lock
from isc_runtime.checkpointing.stores.output import write_out
from isc_runtime.checkpointing.stores.store import Store


class LocalStore(Store):
    """A folder of checkpoints, as `LocalLayout` describes it.

    Args:
        directory: the folder.
        group: the ranks.
        keep: how many checkpoints to keep besides the best and the anchors; 0 keeps all.
    """

    kind = LocalLayout
    compared = "read back, all bytes of the payload are those that were handed over"

    def _take_over(self) -> Path:
        """Before all else: the folder may belong to a training that runs."""
        self._lock = take_lock(self.directory, self.group.busy)
        return super()._take_over()

    def next_payload(self, step: int, force: bool) -> Path:
        now = datetime.now()
        same_step = [entry.order for entry in self.layout.named() if entry.order[0] == step]
        if same_step:  # two saves of one step in one second must not share a name, nor may the clock go back
            _, day, second = max(same_step)
            now = max(now, datetime.strptime(f"{day:08}{second:06}", "%Y%m%d%H%M%S") + timedelta(seconds=1))
        name = f"checkpoint_{now:%Y%m%d-%H%M%S}_{step}"
        return self.directory / name / PAYLOAD if self.in_folders else self.directory / f"{name}.pth"

    def write(self, state: dict[str, Any], payload: Path) -> str | None:
        temporary = payload.with_name(payload.name + TEMPORARY_SUFFIX)
        handed = write_out(temporary, lambda output: torch.save(state, output))  # type: ignore[arg-type]
        temporary.replace(payload)
        return handed
