"""A checkpoint is read from its first byte to its last, and whoever waits is told how far that is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

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
    manifest = entry.read_manifest()
    verify_files(entry, manifest, manifest.files, progress)
    return manifest


def verify_files(
    entry: Entry, manifest: Manifest, names: Iterable[str], progress: Progress = unheard
) -> None:
    """The same with some of its files.

    Args:
        entry: the checkpoint.
        manifest: its own.
        names: of the files whose bytes are compared; of the others the sizes are.
        progress: as above.

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

    manifest.verify(entry.payload.parent, note, names)
