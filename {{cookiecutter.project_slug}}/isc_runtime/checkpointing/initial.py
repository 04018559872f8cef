"""A new training that begins with weights of another one: --init-from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isc_runtime.checkpointing.on_disk.export import read_weights
from isc_runtime.checkpointing.on_disk.manifest import checksum
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.printable import listed
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import ShardedTensors, distribute

PART = "model"

logger = logging.getLogger("checkpoint")


def begin_with(source: Path, parts: Mapping[str, Any], is_partly: bool, group: Group) -> None:
    """Loads weights into the model. All ranks call it.

    Args:
        source: a file, or a checkpoint, of this project or of another program.
        parts: of the training, "model" among them.
        is_partly: whether only those are loaded that the model has, too, in the same shape.
        group: the ranks.

    Raises:
        RankError: there are no such weights, they do not fit, or a node has others than the master.
    """
    seen = group.gather(group.each(lambda: _fingerprint(source)))
    if len(set(seen)) > 1:
        group.each(lambda: _refuse(source))
    said = group.each(lambda: _load(source, parts, is_partly))
    logger.info("[INIT] The training begins with the weights in %s%s", source, said)


def _fingerprint(source: Path) -> str:
    try:
        return checksum(source.resolve()) if source.is_file() else str(source.is_dir())
    except OSError as error:
        raise IscError(f"It cannot be read ({error.strerror})", source, "Look at its permissions.") from None


def _refuse(source: Path) -> None:
    what = "The nodes do not see the same file"
    raise IscError(what, source, "Put it where all nodes see it, or into the image.", ExitCode.CHECKPOINT)


def _load(source: Path, parts: Mapping[str, Any], is_partly: bool) -> str:
    """Returns what was not loaded, for the log."""
    model = parts.get(PART)
    if not isinstance(model, nn.Module):
        hint = f"Name it {PART!r} in what state() returns."
        raise IscError("The training has no model that weights could go to", PART, hint, ExitCode.USAGE)
    weights, _ = read_weights(source)
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if _fits(value, own.get(name))}
    misfits = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": [name for name in weights if name in own and name not in fitting],
    }
    words = "; ".join(f"{kind}: {listed(names)}" for kind, names in misfits.items() if names)
    if words and (not is_partly or not fitting):
        raise IscError(
            f"The weights do not fit the model ({words})",
            source,
            "Take those of the same model"
            + ("." if is_partly else ", or only what fits: --init-partly lists the rest in the log."),
            ExitCode.CHECKPOINT,
        )
    shards = distribute({PART: fitting}, ShardedTensors({PART: model}))
    model.load_state_dict(shards[PART], strict=not is_partly)
    return f", but for what is {words}" if words else ""


def _fits(value: Any, own: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(own, Tensor):
        return value.shape == own.shape
    return own is not None and not isinstance(value, Tensor) and not isinstance(own, Tensor)
