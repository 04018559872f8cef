"""A checkpoint is read from its first byte to its last, and whoever waits is told how far that is."""

from __future__ import annotations

import logging
import time

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import Manifest, Progress, unheard
from isc_runtime.sizes import readable_size

SECONDS = 5.0  # between two lines

logger = logging.getLogger("checkpoint")


def verified(entry: Entry, progress: Progress = unheard) -> Manifest:
    """Compares every byte of a checkpoint with its manifest; says every few seconds how far it is.

    Args:
        entry: the checkpoint.
        progress: called after each megabyte with how many bytes of how many have been compared.

    Raises:
        Damaged: something is not as it was saved.
    """
    said = time.monotonic()

    def note(compared: int, total: int) -> None:
        nonlocal said
        progress(compared, total)
        if time.monotonic() - said >= SECONDS:
            said = time.monotonic()
            read = f"{readable_size(compared)} of {readable_size(total)}"
            logger.info("[VERIFY] %s: %s compared with their checksums", entry.name, read)

    return entry.verify(note)
