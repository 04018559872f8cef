"""The checkpoint artifact of the ISC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isc_runtime.checkpointing.on_disk.durable import link_durably, sync_directory
from isc_runtime.checkpointing.on_disk.layout import SAVER, ArtifactLayout
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group


class ArtifactStore(Store):
    """The checkpoint artifact of the ISC, kept by cycling_utils' AtomicDirectory.

    AtomicDirectory is made with `strategy="mono"` on the master alone: on the disk, which is all the
    platform sees, that is the same, and its own collectives, which can hang, are not used.
    """

    kind = ArtifactLayout

    def __init__(self, directory: Path, group: Group) -> None:
        import cycling_utils  # the ISC has it; local mode does not need it

        super().__init__(directory, group)
        self._torch_save = cycling_utils.atomic_torch_save
        self._saver = cycling_utils.AtomicDirectory(
            str(self.directory),
            is_master=group.is_master,
            name=SAVER,
            keep_last=-1,
            strategy="mono",
            device="cpu",
        )

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
        self.group.master(lambda: self._link(checkpoint_directory))

    def _link(self, checkpoint_directory: str) -> None:
        link = self.directory / self.link_name
        before = str(link.readlink()) if link.is_symlink() else None
        (self.directory / f"{self.link_name}_temp").unlink(missing_ok=True)  # left by a failed attempt
        self._saver.symlink_latest(checkpoint_directory)
        if not Path(checkpoint_directory).is_dir():
            # With a link to nowhere every later save would fail, too.
            link.unlink() if before is None else link_durably(link, before)
            raise IscError(
                "The checkpoint was deleted before it became the latest",
                checkpoint_directory,
                "A sync of the ISC deletes what no link points to; the next save makes a new one.",
                ExitCode.SAVE,
            )
        sync_directory(self.directory)

    def next_payload(self, step: int, force: bool) -> Path:
        return Path(self._saver.prepare_checkpoint_directory(force)) / "checkpoint.pt"

    def write(self, state: dict[str, Any], payload: Path) -> None:
        self._torch_save(state, str(payload))

    def publish(self, payload: Path) -> None:
        self._link(str(payload.parent))
