"""What a checkpoint of another program holds, in the parts that a training of this project has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from isc_runtime.checkpointing.on_disk.foreign_folder import OPTIMIZERS, SCHEDULERS, WEIGHTS
from isc_runtime.checkpointing.on_disk.untrusted import LARGEST, is_count
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.shards import MARK
from isc_runtime.tree import nodes

# As people and their libraries call them; a number after a dot is a place in a list, as Lightning has them.
KEYS: dict[str, tuple[str, ...]] = {
    "model": ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "weights", *WEIGHTS),
    "optimizer": (
        *("optimizer", "optimizer_state_dict", "optimizer_state", "optim", "optimizer_states.0"),
        *OPTIMIZERS,
    ),
    "scheduler": ("scheduler", "lr_scheduler", "scheduler_state_dict", "lr_schedulers.0", *SCHEDULERS),
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
        of_epoch: how much of an epoch was done that it was in the middle of.
    """

    parts: dict[str, Any]
    numbers: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    of_epoch: float = 0.0


def take_parts(
    state: dict[str, Any], file: Path, keys: Mapping[str, str] | None = None, strip: str = ""
) -> Taken:
    """Finds the parts of a training, and how far it was.

    Args:
        state: what is in the file.
        file: where it is from.
        keys: where the parts are, if not under the usual names.
        strip: what the names of the weights begin with, besides what wrappers put before them.

    Raises:
        IscError: there are no weights, a part is not where `keys` says, or their names do not begin with
            `strip`.
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
                    parts[part], where[part] = _with_numbers(found), key
                    break
            else:
                _must_be_there(part, keys, state, file)
    if others := [name for name in parts["model"] if not isinstance(name, str)]:
        hint = "Say with --model KEY where its weights are, by their names."
        raise IscError(f"{others[0]!r} is no name of a weight", file, hint, ExitCode.CHECKPOINT)
    raw, parts["model"] = parts["model"], plain_names(parts["model"], strip)
    if strip and parts["model"].keys() == plain_names(raw).keys():
        named = ", ".join(list(raw)[:5])
        hint = (
            f"They are {named}{', ...' * (len(raw) > 5)}. Say what all of them begin with, or leave it out."
        )
        raise IscError(f"Not all names of weights begin with {strip!r}", file, hint, ExitCode.CHECKPOINT)
    if not any(isinstance(value, Tensor) for value in parts["model"].values()):
        _must_be_there("model", {"model": where["model"]}, state, file)
    numbers = {}
    for name, candidates in NUMBERS.items():
        for key in candidates if where["model"] else ():
            if (number := count_in(state.get(key))) is not None:
                numbers[name], where[name] = number, key
                break
    of_epoch = 0.0
    for key in NUMBERS["epoch"] if where["model"] and "epoch" not in numbers else ():
        value = state.get(key)
        if isinstance(value, float) and 0 <= value < LARGEST:
            numbers["epoch"], where["epoch"], of_epoch = int(value), key, value % 1
            break
    known = {name for key in where.values() for name in (key, key.partition(".")[0])}
    left = [str(key) for key in state if str(key) not in known] if where["model"] else []
    return Taken(parts, numbers, where, left, of_epoch)


def plain_names(weights: Mapping[str, Any], strip: str = "") -> dict[str, Any]:
    """Weights under the names that the model itself gives them."""
    is_raw = all(name.startswith(strip) for name in weights)  # as the file has them, wrappers and all
    names = {name: name.removeprefix(strip if is_raw else "").replace("_orig_mod.", "") for name in weights}
    for prefix in (*WRAPPERS, strip):
        while prefix and names and all(name.startswith(prefix) for name in names.values()):
            names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    return {names[name]: value for name, value in weights.items()}


def _with_numbers(part: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with the numbers of its parameters as numbers: torch.distributed.checkpoint makes
    texts of them, under which an optimizer would not find its state, and say nothing."""
    state = part.get("state")
    if not isinstance(state, Mapping) or not all(isinstance(key, str) and key.isdecimal() for key in state):
        return part
    return {**part, "state": {int(key): value for key, value in state.items()}}


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


def own_position(state: Mapping[str, Any]) -> dict[str, int] | None:
    """How far a training of this project was, if the state is one of its own, with all that is in one.

    It is imported where the manifest was lost. Shards have their own files, and are no such thing.
    """
    position, names = state.get("sampler"), ("epoch", "batch", "samples", "step", "seed")
    if not isinstance(position, dict) or not all(is_count(position.get(name)) for name in names):
        return None
    is_own = isinstance(state.get("rng"), list) and is_count(state.get("saves")) and "model" in state
    has_shards = any(isinstance(node, dict) and MARK in node for _, node in nodes(state))
    return {name: position[name] for name in names[:4]} if is_own and not has_shards else None


def count_in(value: Any) -> int | None:
    """A number of steps, say, as a manifest can hold it: from a whole number, a float, or a tensor of one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():  # neither NaN nor infinite
        value = int(value)
    return value if is_count(value) else None
