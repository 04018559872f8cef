"""A folder of checkpoints on this machine."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from isc_runtime.checkpointing.on_disk.durable import TEMPORARY_SUFFIX, Damaged, link_durably
from isc_runtime.checkpointing.on_disk.entries import PAYLOAD
from isc_runtime.checkpointing.on_disk.layout import LocalLayout
from isc_runtime.checkpointing.stores.repair import remove
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.ranks.group import Group


class LocalStore(Store):
    """A folder of checkpoints, as `LocalLayout` describes it.

    Args:
        directory: the folder.
        group: the ranks.
        keep: how many checkpoints to keep, forced ones not counted; 0 keeps all.
    """

    kind = LocalLayout

    def __init__(self, directory: Path, group: Group, keep: int = 0) -> None:
        super().__init__(directory, group)
        self.keep = keep

    def next_payload(self, step: int, force: bool) -> Path:
        now = datetime.now()
        same_step = [entry.order for entry in self.entries() if entry.order[0] == step]
        if same_step:  # two saves of one step in one second must not share a name, nor may the clock go back
            _, day, second = max(same_step)
            now = max(now, datetime.strptime(f"{day:08}{second:06}", "%Y%m%d%H%M%S") + timedelta(seconds=1))
        name = f"checkpoint_{now:%Y%m%d-%H%M%S}_{step}"
        if not self.in_folders:
            return self.directory / f"{name}.pth"
        (self.directory / name).mkdir()
        return self.directory / name / PAYLOAD

    def write(self, state: dict[str, Any], payload: Path) -> None:
        temporary = payload.with_name(payload.name + TEMPORARY_SUFFIX)
        torch.save(state, temporary)
        temporary.replace(payload)

    def publish(self, payload: Path) -> None:
        name = payload.name if payload.parent == self.directory else payload.parent.name
        link_durably(self.directory / self.link_name, name)

    def tidy(self) -> None:
        """Deletes the oldest; a failure to delete is no failure to save."""
        plain = []
        for entry in self.entries():
            if entry.path in self.repair.immovable:  # it may have the highest step and is no good
                continue
            with contextlib.suppress(Damaged):
                if not entry.read_manifest().details.get("force"):
                    plain.append(entry)
        for entry in plain[: -self.keep] if self.keep else []:
            # First it loses its name: what a kill leaves of it then is cleared away by the next run.
            doomed = entry.path.with_name(entry.path.name + TEMPORARY_SUFFIX)
            with contextlib.suppress(OSError):
                entry.path.rename(doomed)
            for path in (entry.manifest, doomed):
                remove(path)
