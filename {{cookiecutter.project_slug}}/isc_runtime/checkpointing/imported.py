"""A checkpoint that was imported from another program lacks things, and what it has was never checked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from isc_runtime.position import Position

IMPORTED = "imported"  # in the details of a manifest: the name of the file that it was made of
POSITION = "sampler"  # the part of the state that says how far the training is
RATES = ("lr", "initial_lr")

Groups = dict[str, list[dict[str, Any]]]

logger = logging.getLogger("checkpoint")


def complete(loaded: dict[str, Any], parts: Mapping[str, Any], source: str) -> list[str]:
    """Fills in the position, and names what begins anew.

    Args:
        loaded: the imported state.
        parts: of the training, as they are before it is loaded.
        source: what it was imported from.

    Returns:
        The names of the parts that are missing.

    Raises:
        ValueError: it stands behind the end of the training's epoch.
    """
    position = parts[POSITION].state_dict()
    loaded[POSITION] = {**position, **loaded[POSITION]}  # seed and length are the training's own
    length, samples = position.get("length"), loaded[POSITION]["samples"]
    if length is not None and samples > length:
        raise ValueError(f"{samples} samples of an epoch that has {length}")
    missing = [name for name in parts if name not in loaded]
    logger.warning(
        "[IMPORT] Imported from %s: random numbers and the order of the data begin anew%s",
        source,
        f", and so do {', '.join(missing)}" if missing else "",
    )
    return missing


def check_scheduler(scheduler: LRScheduler, saved: Mapping[str, Any]) -> None:
    """Torch takes over whatever a state holds, and goes on with a mixture of both.

    Args:
        scheduler: of the training.
        saved: what is about to be loaded into it.

    Raises:
        ValueError: it is the state of another kind of scheduler.
    """
    own = {name for name in scheduler.state_dict() if not name.startswith("_")}
    if missing := sorted(own - saved.keys()):
        raise ValueError(f"it has no {', '.join(missing)}: the state of another kind of scheduler?")


def check_optimizer(optimizer: Optimizer, fresh: list[dict[str, Any]]) -> None:
    """Torch loads the state of whatever optimizer, and fails at the first step.

    Args:
        optimizer: just loaded.
        fresh: its settings before.

    Raises:
        ValueError: it was the state of another kind of optimizer, or of other parameters.
    """
    for group, before in zip(optimizer.param_groups, fresh, strict=True):
        missing = sorted(before.keys() - group.keys() - set(RATES))
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}: the state of another kind of optimizer?")
        for number, parameter in enumerate(group["params"]):
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    shapes = f"{tuple(value.shape)}, not {tuple(parameter.shape)}"
                    raise ValueError(f"{name} of parameter {number} has the shape {shapes}")


def begin_anew(parts: Mapping[str, Any], missing: list[str], fresh: Groups) -> None:
    """Puts schedulers that the import lacks where the training is; rates are those of the command line.

    Args:
        parts: of the training, loaded.
        missing: the names of those that were not.
        fresh: the settings of its optimizers as the command line gives them.
    """
    position = parts[POSITION]
    assert isinstance(position, Position)
    for name in missing:
        scheduler = parts[name]
        for other, groups in fresh.items():
            if isinstance(scheduler, LRScheduler) and scheduler.optimizer is parts[other]:
                for group, before in zip(parts[other].param_groups, groups, strict=True):
                    group |= {rate: before[rate] for rate in RATES if rate in before}
        if isinstance(scheduler, LambdaLR):  # a function of the step: it can be put to any
            scheduler.last_epoch = position.progress.step - 1
            with warnings.catch_warnings():  # the optimizer has stepped elsewhere
                warnings.simplefilter("ignore")
                scheduler.step()
