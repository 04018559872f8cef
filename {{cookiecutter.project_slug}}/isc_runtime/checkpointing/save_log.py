"""What became of the saves: said in the log, noted for TensorBoard; too many failures end the run."""

from __future__ import annotations

import contextlib
import logging
import shutil
from dataclasses import dataclass

from isc_runtime.checkpointing.saving.save import Save
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.rank_error import RankError

AGAIN = {  # a new experiment begins with an empty artifact
    "local": "Fix it and start again: it goes on from the last good checkpoint.",
    "ISC": "Fix it. A new experiment goes on from the last good checkpoint if input_artifact_id_list in "
    "experiment.isc has the id of this one's checkpoint artifact.",
}

logger = logging.getLogger("checkpoint")


@dataclass(frozen=True)
class Ended:
    """A save that has ended well, as the master tells all ranks.

    Attributes:
        size: bytes that were written, by all ranks.
        held_up: seconds for which the training stood still for it.
        write_seconds: seconds from its beginning until it was durable.
        save_steps: batches between two saves from now on.
        cost: seconds by which each save makes the training longer.
    """

    size: int
    held_up: float
    write_seconds: float
    save_steps: int
    cost: float


class SaveLog:
    """The saves of one training, on all its ranks alike.

    Args:
        store: where the checkpoints live.
        options: how many failures are too many.
        scalars: where each save's costs are noted.
        isc_mode: whether this is the ISC.

    Attributes:
        failures: failed saves in a row.
    """

    def __init__(self, store: Store, options: CheckpointOptions, scalars: Scalars, isc_mode: bool) -> None:
        self.failures = 0
        self._store = store
        self._options = options
        self._scalars = scalars
        self._mode = "ISC" if isc_mode else "local"

    def succeeded(self, save: Save, ended: Ended) -> None:
        """A checkpoint is published."""
        self.failures = 0
        logger.info("[SUCCESS] Written and synced; %s: %s", self._store.compared, save.payload)
        logger.info("[SUCCESS] Resume checkpoint: %s", self._store.directory / self._store.link_name)
        logger.info(
            "[COMPLETE] Checkpoint of step %d: path %s, mode %s, %d bytes in %.3f s, training held up %.3f s",
            *(save.step, save.payload, self._mode, ended.size, ended.write_seconds, ended.held_up),
        )
        costs = {"bytes": ended.size, "write_seconds": ended.write_seconds, "stall_seconds": ended.held_up}
        for name, value in {**costs, "bytes_per_second": ended.size / ended.write_seconds}.items():
            self._scalars.add(f"checkpoint/{name}", value, save.step)

    def failed(self, error: RankError, step: int) -> None:
        """A save failed; all ranks come here with the same error.

        Raises:
            RankError: it was one too many, or another run has taken over.
        """
        if error.exit_code is ExitCode.TAKEN:
            raise error
        self.failures += 1
        most, free = self._options.max_failed_saves, 0
        with contextlib.suppress(OSError):  # the directory may be what is wrong
            free = shutil.disk_usage(self._store.directory).free
        logger.error(
            "[FAILED] Checkpoint of step %d (failure %d of %d in a row): %s (%d bytes free in %s)",
            *(step, self.failures, most, error, free, self._store.directory),
        )
        if self.failures >= most:
            raise RankError(
                f"{self.failures} saves in a row failed, the last one because: {error.what}",
                error.where or self._store.directory,
                f"{error.hint} {AGAIN[self._mode]}".lstrip(),
                ExitCode.SAVE,
                error.rank,
                error.hostname,
                error.node_rank,
            ) from error
