"""The checkpoint artifact of the ISC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isc_runtime.checkpointing.on_disk.entries import PAYLOAD
from isc_runtime.checkpointing.on_disk.layout import SAVER, ArtifactLayout
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.ranks.group import Group


class ArtifactStore(Store):
    """The checkpoint artifact of the ISC, kept by cycling_utils' AtomicDirectory.

    AtomicDirectory is made with `strategy="mono"` on the master alone: on the disk, which is all the
    platform sees, that is the same, and its own collectives, which can hang, are not used. The link is moved
    as `symlink_latest` moves it, but it comes about in the folder of this run: a run that
    was replaced can no longer move it.

    Args:
        directory: the artifact.
        group: the ranks.
        keep: how many checkpoints to keep; 0 leaves all to the platform.
    """

    kind = ArtifactLayout

    def __init__(self, directory: Path, group: Group, keep: int = 0) -> None:
        import cycling_utils  # the ISC has it; local mode does not need it

        super().__init__(directory, group, keep)
        self._torch_save = cycling_utils.atomic_torch_save
        self._saver: Any = None  # the master's

        def make_saver() -> None:
            self._saver = cycling_utils.AtomicDirectory(
                str(self.directory),
                is_master=True,
                name=SAVER,
                keep_last=-1,
                strategy="mono",
                device="cpu",
            )

        group.master(make_saver)

    def prepare_checkpoint_directory(self, force_save: bool = False) -> str:
        """Makes the directory of the next checkpoint. All ranks call it, and all get the same path.

        Args:
            force_save: if any rank asks, the directory is shipped even when it is no longer the latest.

        Raises:
            RankError: the master could not make it.
        """
        force_save = any(self.group.gather(force_save))
        return str(self.prepare(0, force_save).parent)

    def symlink_latest(self, checkpoint_directory: str) -> None:
        """Makes a durable checkpoint the latest. All ranks call it.

        Raises:
            RankError: the master could not write the link.
        """
        self.group.master(lambda: self.publish(Path(checkpoint_directory) / PAYLOAD))

    def next_payload(self, step: int, force: bool) -> Path:
        return Path(self._saver.prepare_checkpoint_directory(force)) / PAYLOAD

    def write(self, state: dict[str, Any], payload: Path) -> str | None:
        self._torch_save(state, str(payload))
        return None
