"""What a checkpoint of another program holds, in the parts that a training of this project has."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isc_runtime.checkpointing.on_disk.entries import PAYLOAD
from isc_runtime.checkpointing.on_disk.foreign import METADATA, described, other_checkpoints
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.on_disk.start_notes import LINK as NOTES
from isc_runtime.errors import ExitCode, IscError

# As people and their libraries call them; a number after a dot is a place in a list, as Lightning has them.
KEYS: dict[str, tuple[str, ...]] = {
    "model": ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "weights"),
    "optimizer": ("optimizer", "optimizer_state_dict", "optimizer_state", "optim", "optimizer_states.0"),
    "scheduler": ("scheduler", "lr_scheduler", "scheduler_state_dict", "lr_schedulers.0"),
}
NUMBERS: dict[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "steps", "iteration", "iter", "iter_num"),
    "epoch": ("epoch", "current_epoch"),
    "batch": ("batch", "batch_idx"),
}
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel, of torch.compile


@dataclass(frozen=True)
class Taken:
    """What was found.

    Attributes:
        parts: "model", and "optimizer" and "scheduler" if they are there.
        numbers: "step", "epoch", "batch", as far as they are there.
        keys: where in the file each part and each number was.
        left: the other keys.
    """

    parts: dict[str, Any]
    numbers: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def find_foreign(source: Path) -> Path:
    """The file that a path means: itself, or the one in a folder, or the one its saver's link points to.

    Raises:
        IscError: there is none, or there are several, or it is of a kind that must be converted first.
    """
    hint = "Name the file: python -m isc_runtime checkpoints DIRECTORY lists what is there."
    if not source.is_dir():
        if not source.is_file():
            raise IscError("There is no such file", source, hint, ExitCode.CHECKPOINT)
        return source
    links = [link for link in source.glob("*.latest_checkpoint") if link.name != NOTES]
    # By name: a copied artifact's link points to where it was.
    folder = source / links[0].readlink().name if len(links) == 1 and links[0].is_symlink() else source
    if (folder / PAYLOAD).is_file():
        return folder / PAYLOAD
    if (folder / METADATA).is_file():
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {source} FILE.pt"
        what = "This is a folder of torch.distributed.checkpoint"
        raise IscError(what, source, f"Convert it, and import FILE.pt: {command}", ExitCode.CHECKPOINT)
    found = [path for path in other_checkpoints(folder, folder / SET_ASIDE) if path.is_file()]
    if len(found) != 1:
        what = "There is no checkpoint here"
        if found:
            names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
            what = f"There are several checkpoints here ({names}{', ...' if found[5:] else ''})"
        raise IscError(what, source, hint, ExitCode.CHECKPOINT)
    return found[0]


def read_foreign(file: Path, trust_pickle: bool = False) -> dict[str, Any]:
    """The topmost dict of a file, on the CPU.

    Args:
        file: of torch.save, or safetensors.
        trust_pickle: whether it may run code.

    Raises:
        IscError: it cannot be read, holds no dict, or asks for code to be run and may not.
    """
    try:
        if described(file).kind == "safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        state = torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global|class) '?([\w.]+\.[\w.]+)", " ".join(str(error).split()))
        reason = f"it asks for {asked[1]}" if asked else "it is more than plain data"
        raise IscError(
            f"To read this file would run code of whoever wrote it ({reason})",
            file,
            "If you have written it yourself: import --trust-pickle reads it, and lets it run whatever code "
            "it holds, with all your rights.",
            ExitCode.CHECKPOINT,
        ) from None
    except Exception as error:  # of all kinds: torch stumbles over what is damaged in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        hint = "Is it whole, and of torch.save or safetensors?"
        raise IscError(f"It cannot be read ({reason})", file, hint, ExitCode.CHECKPOINT) from None
    if isinstance(state, nn.Module):  # trusted
        state = state.state_dict()
    if not isinstance(state, dict):
        hint = "Save a dict, or the model's state_dict()."
        raise IscError(f"It holds a {type(state).__name__} and no dict", file, hint, ExitCode.CHECKPOINT)
    return dict(state)


def take_parts(
    state: dict[str, Any], file: Path, keys: Mapping[str, str] | None = None, strip: str = ""
) -> Taken:
    """Finds the parts of a training, and how far it was.

    Args:
        state: what `read_foreign` returned.
        file: where it is from.
        keys: where the parts are, if not under the usual names.
        strip: what the names of the weights begin with, besides what wrappers put before them.

    Raises:
        IscError: there are no weights, or a part is not where `keys` says.
    """
    keys = keys or {}
    parts: dict[str, Any] = {}
    where: dict[str, str] = {}
    if "model" not in keys and _are_weights(state):
        parts["model"], where["model"] = state, ""
    else:
        for part in KEYS:
            for key in [keys[part]] if part in keys else KEYS[part]:
                if isinstance(found := _at(state, key), dict):
                    parts[part], where[part] = found, key
                    break
            else:
                _must_be_there(part, keys, state, file)
    parts["model"] = plain_names(parts["model"], strip)
    if not any(isinstance(value, Tensor) for value in parts["model"].values()):
        _must_be_there("model", {"model": where["model"]}, state, file)
    numbers = {}
    for name, candidates in NUMBERS.items():
        for key in candidates if where["model"] else ():
            if (number := _count(state.get(key))) is not None:
                numbers[name], where[name] = number, key
                break
    known = {key.partition(".")[0] for key in where.values()}
    left = [str(key) for key in state if str(key) not in known] if where["model"] else []
    return Taken(parts, numbers, where, left)


def plain_names(weights: Mapping[str, Any], strip: str = "") -> dict[str, Any]:
    """Weights under the names that the model itself gives them."""
    names = {name: name.replace("_orig_mod.", "") for name in weights}
    for prefix in (*WRAPPERS, strip):
        while prefix and names and all(name.startswith(prefix) for name in names.values()):
            names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    return {names[name]: value for name, value in weights.items()}


def names_in(state: Mapping[str, Any]) -> Iterator[str]:
    """The keys, for a message."""
    shown = [str(key)[:60] for key in state]
    yield from shown[:10]
    if shown[10:]:
        yield f"and {len(shown) - 10} more"


def _must_be_there(part: str, keys: Mapping[str, str], state: dict[str, Any], file: Path) -> None:
    if part != "model" and part not in keys:
        return
    what = "weights" if part == "model" else part
    where = f"under {keys[part]!r}" if keys.get(part) else "under any usual name"
    raise IscError(
        f"It has no {what} {where}; its keys are {', '.join(names_in(state))}",
        file,
        f"Say with --{part} KEY where they are.",
        ExitCode.CHECKPOINT,
    )


def _are_weights(state: Mapping[str, Any]) -> bool:
    return bool(state) and all(isinstance(value, Tensor) for value in state.values())


def _at(state: Any, key: str) -> Any:
    """What is at a dotted key; a key that has dots itself is found, too."""
    if isinstance(state, Mapping) and key in state:
        return state[key]
    first, _, rest = key.partition(".")
    if isinstance(state, Sequence) and first.isdecimal() and int(first) < len(state):
        inner: Any = state[int(first)]
    elif isinstance(state, Mapping) and first in state:
        inner = state[first]
    else:
        return None
    return _at(inner, rest) if rest else inner


def _count(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    return int(value) if is_whole and value >= 0 else None
