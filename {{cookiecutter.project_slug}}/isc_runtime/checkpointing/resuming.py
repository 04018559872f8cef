"""What a start goes on from: the newest good checkpoint, weights to begin with, or nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import cast

from isc_runtime.checkpointing.asked import Asked
from isc_runtime.checkpointing.choosing import choose
from isc_runtime.checkpointing.initial import begin_with
from isc_runtime.checkpointing.loading import EVALUATION, load
from isc_runtime.checkpointing.parts import (
    POSITION,
    Training,
    collect,
    look_at,
    names_of_parameters,
    parts_of,
    warn_of_what_is_left_out,
)
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.saving.save import Equipment
from isc_runtime.checkpointing.saving.state_size import expected_size
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.checkpointing.unsaved import Unsaved
from isc_runtime.options import CheckpointOptions
from isc_runtime.position import Position

logger = logging.getLogger("checkpoint")


@dataclass(frozen=True)
class Resumed:
    """What a training had behind it.

    Attributes:
        saves: so many were begun.
        seconds: it had taken so long.
    """

    saves: int
    seconds: float


def resume(
    run: Run, training: Training, options: CheckpointOptions, equipment: Equipment, asked: Asked
) -> Resumed | None:
    """Puts the training into the state of the newest good checkpoint. All ranks call it.

    Args:
        run: what the training runs in.
        training: what is restored.
        options: whether to start over, and what to begin with.
        equipment: told which tensors are not finite at the start, and what to look at while it trains.
        asked: what the command line asks for.

    Returns:
        None if there was none: the training begins.

    Raises:
        RankError: there are checkpoints and none is good, or this one is of another training, or there is
            no room for two more.
    """
    store, group, parts = run.store, run.group, parts_of(training)
    asked.begin(parts)
    equipment.trained = names_of_parameters(training)
    warn_of_what_is_left_out(training)
    if options.fresh:
        group.master(partial(_begin_anew, store, group.environment.restarts))
    size = group.each(lambda: expected_size(parts.values()))  # a state_dict may be a collective
    group.master(lambda: store.check_room(size))
    chosen = choose(store, group)
    if chosen is None:
        if options.init_from is not None:
            begin_with(options.init_from, parts, options.init_partly, group)
        equipment.not_finite = group.each(lambda: look_at(training))
        equipment.unsaved = Unsaved(training, group)
        logger.info("No checkpoint in %s: training starts at step 0", store.directory)
        return None
    entry, manifest = chosen.entry, chosen.manifest
    if options.init_from is not None:
        logger.info("[INIT] There is a checkpoint to go on from: --init-from is not used")
    saves = group.each(lambda: load(parts, chosen, group, asked))
    equipment.not_finite = group.each(lambda: look_at(training))
    equipment.unsaved = Unsaved(training, group)
    if group.device.type == "cuda":  # its first save need not wait for this memory
        state = collect(training)
        if group.is_master or store.in_folders:
            equipment.copier.submit(equipment.snapshot.pin, state)
    progress = cast(Position, parts[POSITION]).progress
    logger.info(
        "Resumed from %s: step %d, epoch %d, batch %d, saved %s%s",
        *(entry.path, progress.step, progress.epoch, progress.batch, manifest.time),
        str(parts.get(EVALUATION, "")),
    )
    return Resumed(saves, float(manifest.details.get("seconds", 0.0)))


def _begin_anew(store: Store, restarts: int) -> None:
    """Sets all aside that was there before torchrun started its first attempt. The master's.

    What the attempts since then have saved is gone on from; there may be none that came so far.

    Args:
        store: where checkpoints live.
        restarts: how often torchrun has started the ranks again.
    """
    if not restarts or store.newest_count() < store.fence.count - restarts:
        store.set_all_aside()
