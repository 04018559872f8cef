"""python -m isc_runtime import: a checkpoint of this project, made of another program's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isc_runtime.checkpointing.imported import IMPORTED, POSITION
from isc_runtime.checkpointing.on_disk.entries import PAYLOAD, Entry, Resume, newest_good
from isc_runtime.checkpointing.on_disk.foreign_source import find_foreign, read_foreign
from isc_runtime.checkpointing.on_disk.foreign_state import Taken, count_in, own_position, take_parts
from isc_runtime.checkpointing.on_disk.layout import (
    SAVER,
    ArtifactLayout,
    Layout,
    LocalLayout,
    has_manifest,
    is_ours,
)
from isc_runtime.checkpointing.on_disk.manifest import WHOLE
from isc_runtime.checkpointing.on_disk.untrusted import LARGEST, is_count
from isc_runtime.checkpointing.saving.loadable import check_state
from isc_runtime.checkpointing.saving.save import check_readable
from isc_runtime.checkpointing.saving.state_size import size_of
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tree import mapped, name_of

WHOLE_AGAIN = (
    "It is one of this project that had lost its manifest. All that is in it is taken, random numbers and "
    "position too; but nothing tells any more whether each byte is as it was saved, and how long it had "
    "trained (--max-seconds counts from 0)."
)


@dataclass(frozen=True)
class Wishes:
    """What a person says of a checkpoint that cannot say it itself.

    Attributes:
        numbers: "step", "epoch", "batch", "samples"; what is said counts more than what the file says.
        keys: where in the file "model", "optimizer" and "scheduler" are.
        without: parts that are not taken.
        strip: what the names of the weights begin with.
        trust_pickle: whether the file may run code.
    """

    numbers: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    strip: str = ""
    trust_pickle: bool = False


@dataclass(frozen=True)
class Imported:
    """What was made.

    Attributes:
        path: the checkpoint.
        notes: what is in it, and what is not, in sentences.
    """

    path: Path
    notes: list[str]


class _ArtifactStore(Store):
    """An artifact, without cycling_utils: a workstation need not have it, and it deletes what it does not
    know when there is no link."""

    kind = ArtifactLayout

    def next_payload(self, step: int, force: bool) -> Path:
        number = max((entry.order[0] for entry in self.layout.named()), default=-1) + 1
        return self.directory / f"{SAVER}_checkpoint_{number}" / PAYLOAD

    write = LocalStore.write


def import_checkpoint(source: Path, target: Path, is_artifact: bool, wishes: Wishes) -> Imported:
    """Makes a checkpoint of this project, from which a training goes on.

    Args:
        source: a file of another program, or a folder with one.
        target: the directory where the training saves; made if it does not exist.
        is_artifact: whether it is one as on the ISC, or local mode's.
        wishes: what the file does not say itself.

    Raises:
        IscError: it cannot be read or lacks what is needed, a wish cannot be met, or the directory has a good
            checkpoint already.
    """
    file = find_foreign(source)
    if has_manifest(file.resolve()):
        hint = "Nothing needs to be imported: a training goes on from it where it lies in its directory."
        raise IscError("This is a checkpoint of this project", file, hint, ExitCode.CHECKPOINT)
    try:
        return _import(file, target, is_artifact, wishes)
    except RecursionError:
        hint = "Save it anew without that: only its weights, say."
        raise IscError("It is nested too deep, or holds itself", file, hint, ExitCode.CHECKPOINT) from None


def _import(file: Path, target: Path, is_artifact: bool, wishes: Wishes) -> Imported:
    content = read_foreign(file, wishes.trust_pickle)
    asks = wishes.numbers or wishes.keys or wishes.without or wishes.strip
    if not asks and (at := own_position(content)):
        check_state(content)
        details: dict[str, Any] = {**at, "world_size": max(1, len(content["rng"]))}
        return Imported(_write(content, details, _opened(target, is_artifact)).path, [WHOLE_AGAIN])
    taken = take_parts(content, file, wishes.keys, wishes.strip)
    parts = {name: part for name, part in taken.parts.items() if name not in wishes.without}
    numbers = _numbers(taken, wishes, file)
    state = _plain(parts, file) | {POSITION: numbers, "rng": [], "saves": 0}
    check_state(state)
    details = {**numbers, "world_size": 1, IMPORTED: file.name}
    entry = _write(state, details, _opened(target, is_artifact))
    return Imported(entry.path, list(_notes(taken, parts, numbers, wishes)))


def _numbers(taken: Taken, wishes: Wishes, file: Path) -> dict[str, int]:
    found = {**taken.numbers, **wishes.numbers}
    for name, value in wishes.numbers.items():
        if not is_count(value):
            hint = f"No checkpoint holds more than {LARGEST}."
            raise IscError(f"{value} is too large", f"--{name}", hint, ExitCode.USAGE)
    if "step" not in found and (steps := _steps_of(taken.parts.get("optimizer", {}))) is not None:
        found["step"] = steps
    if "step" not in found:
        hint = (
            "Say it: --step N. To begin at step 0 with its weights alone: python train.py --init-from FILE."
        )
        raise IscError("It does not say its step", file, hint, ExitCode.CHECKPOINT)
    epoch, batch = found.get("epoch", 0), found.get("batch", 0)
    if batch and "samples" not in found:
        raise IscError(
            f"It is at batch {batch} of an epoch, and does not say how many samples that is",
            file,
            "Say it: --samples N, batches x samples of a batch x ranks. Or begin the epoch anew: --batch 0.",
            ExitCode.CHECKPOINT,
        )
    return {"epoch": epoch, "batch": batch, "samples": found.get("samples", 0), "step": found["step"]}


def _steps_of(optimizer: Mapping[str, Any]) -> int | None:
    """How many steps an optimizer has taken, if it counts them."""
    states = optimizer.get("state", {})
    steps = [one.get("step") for one in states.values() if isinstance(one, Mapping)] if states else []
    return max((count for step in steps if (count := count_in(step)) is not None), default=None)


def _plain(parts: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Without parameters and views, which are saved with all that they are a view of. Raises IscError."""

    def change(path: tuple[object, ...], node: Any) -> Any:
        if isinstance(node, Tensor) and node.layout is not torch.strided:
            hint = "Save it as a dense one (to_dense), and make it sparse again in build_model."
            what = f"{name_of(path)} is a sparse tensor, which no checkpoint here holds"
            raise IscError(what, file, hint, ExitCode.CHECKPOINT)
        return (
            node.detach().clone(memory_format=torch.contiguous_format) if isinstance(node, Tensor) else node
        )

    return {name: mapped(dict(part), change, (name,)) for name, part in parts.items()}


def good_checkpoint(target: Path, is_artifact: bool) -> Entry | None:
    """The newest checkpoint of this project of which every byte is as it was saved.

    Args:
        target: the directory; it need not exist.
        is_artifact: whether it is one as on the ISC, or local mode's.

    Raises:
        IscError: the directory cannot be read.
    """
    chosen = _there(target, is_artifact, lambda layout: newest_good(layout.entries())).chosen
    return chosen and chosen[0]


def is_needed(target: Path, is_artifact: bool) -> bool:
    """Whether a training there has nothing of its own to go on from, and never had.

    Args:
        target: the directory; it need not exist.
        is_artifact: whether it is one as on the ISC, or local mode's.

    Raises:
        IscError: it had something, and cannot go on from it: with an import it would begin with that again,
            and nobody would notice. Or the directory cannot be read.
    """
    found = _there(target, is_artifact, lambda layout: layout.resume(layout.entries()))
    if found.chosen is not None:
        return False
    had = [f"{entry.name}: {reason}" for entry, reason in found.damaged if entry.is_complete]
    is_strangers = bool(found.foreign) and not any(map(is_ours, found.foreign))
    if had or not (found.begins or is_strangers):
        raise IscError(
            "There are checkpoints of this project, and none of them can be used",
            f"{target.absolute()} ({'; '.join(had) or found.obstacle})",
            "Nothing was imported. Bring a good one back; or move them to another place: then the training "
            "begins with the import again.",
            ExitCode.CHECKPOINT,
        )
    return True


def _there(target: Path, is_artifact: bool, look: Callable[[Layout], Resume]) -> Resume:
    """What `look` finds in a directory, which need not exist. Raises IscError."""
    try:
        return look((ArtifactLayout if is_artifact else LocalLayout)(target))
    except FileNotFoundError:
        return Resume(None, [], begins=True)
    except OSError as error:
        hint = "Name a directory that can be read and written: --into DIRECTORY."
        raise IscError(f"It cannot be read ({error.strerror})", target.absolute(), hint) from None


def _opened(target: Path, is_artifact: bool) -> Store:
    """The directory, which must not have a good checkpoint. Raises IscError."""
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        hint = "Name a directory that can be written, or that can be made: --into DIRECTORY."
        raise IscError(f"It cannot be made ({error.strerror})", target.absolute(), hint) from None
    _check_free(target, is_artifact)
    group = Group(Environment(), torch.device("cpu"))
    store = (_ArtifactStore if is_artifact else LocalStore)(target, group)
    _check_free(target, is_artifact)  # whoever had it meanwhile, and was waited for, may have saved
    return store


def _check_free(target: Path, is_artifact: bool) -> None:
    if (found := good_checkpoint(target, is_artifact)) is not None:
        raise IscError(
            f"There is a good checkpoint of this project here: {found.name}",
            target.absolute(),
            "Nothing was changed. Import into another directory (--into DIRECTORY), or move it away.",
            ExitCode.CHECKPOINT,
        )


def _write(state: dict[str, Any], details: dict[str, Any], store: Store) -> Entry:
    store.check_room(size_of(state))
    step: int = details["step"]
    payload = store.prepare(step, force=False)
    details = {**details, "force": False, "anchor": False, "format": WHOLE}
    try:
        store.save(state, payload, step, details, lambda: check_readable(store.staged(payload)))
        store.publish(payload)
    except OSError as error:
        hint = "Look at its directory: full, read-only, over quota?"
        raise IscError(f"It cannot be written ({error.strerror})", payload, hint, ExitCode.SAVE) from None
    return store.layout.entry_of(payload)


def _notes(
    taken: Taken, parts: Mapping[str, Any], numbers: Mapping[str, int], wishes: Wishes
) -> Iterator[str]:
    said = [f"{name} ({_origin(taken.keys[name])})" for name in parts]
    yield f"Taken: {', '.join(said)}."
    for name in ("step", "epoch", "batch"):
        if name in wishes.numbers:
            origin = "as you said"
        elif name in taken.numbers:
            origin = f"as its {taken.keys[name]!r} says"
        else:
            origin = "counted by its optimizer" if name == "step" else "it does not say"
        yield f"{name.capitalize()} {numbers[name]}: {origin}."
    if taken.of_epoch and "batch" not in wishes.numbers:
        yield (
            f"It was in the middle of an epoch ({taken.of_epoch:.0%} of it done), which begins anew; --batch "
            "and --samples say where to go on."
        )
    elif "epoch" in taken.numbers and "epoch" not in wishes.numbers:
        done = numbers["epoch"]
        yield f"So many epochs count as done; if it names the last one done: --epoch {done + 1}."
    yield (
        "Not restored: random numbers, and which samples of its epoch were seen; the order of the data is "
        "this project's own."
    )
    for name in ("optimizer", "scheduler"):
        if name not in parts:
            yield f"There is no {name} in it, so it begins anew."
    if taken.left:
        yield f"Not taken: {', '.join(taken.left)}."


def _origin(key: str) -> str:
    return f"its {key!r}" if key else "the whole file"
