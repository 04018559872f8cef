"""The weights of a checkpoint alone, as a safetensors file: for use elsewhere, without this project."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isc_runtime.checkpointing.on_disk.durable import TEMPORARY_SUFFIX, sync_directory, sync_file
from isc_runtime.checkpointing.on_disk.entries import MANIFEST, Entry, newest_good
from isc_runtime.checkpointing.on_disk.foreign import is_foreign
from isc_runtime.checkpointing.on_disk.foreign_folder import INDEX, folder_of, linked
from isc_runtime.checkpointing.on_disk.layout import foreign_in, has_manifest, is_ours, layouts
from isc_runtime.checkpointing.on_disk.manifest import Manifest
from isc_runtime.checkpointing.on_disk.verification import verified
from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_ALONE = ".safetensors"
PART = "model"  # of a checkpoint, by default
INNER, COUNT = "module.", "n_averaged"  # the names in the state of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class Origin:
    """Where weights are from: a checkpoint, the training's step, when it was saved; "" if nothing tells."""

    checkpoint: Path
    step: int
    time: str


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        file: where.
        checkpoint: what it was taken from.
        step: the training's step.
        tensors: how many.
        bytes: the file's size.
        left_out: names of the state that are no tensors, which the format cannot hold.
    """

    file: Path
    checkpoint: Path
    step: int
    tensors: int
    bytes: int
    left_out: list[str]


def export(source: Path, target: Path, force: bool = False, part: str = PART) -> Exported:
    """Writes a checkpoint's weights to a file, after every byte of the checkpoint was verified.

    Tensors that share memory, as tied weights do, are written each on its own: so the file has all the names
    that `load_state_dict` asks for. Of an AveragedModel the averaged weights are written, under the names
    of the model itself.

    Args:
        source: the checkpoint, a file of it, a link to it, or a directory: then what a resume would take.
        target: the file; it appears whole or not at all. Where it is a link, the file that it leads to.
        force: replace the file if it exists; but not one that belongs to a checkpoint.
        part: which part of the training's state; one that holds a model.

    Raises:
        IscError: there is no such checkpoint, it is damaged or of another kind, or has no such part; the file
            exists, or cannot be written.
    """
    _check_target(source, target, force)
    weights, origin = read_weights(source, part)
    tensors, left_out = _tensors(weights, part, origin.checkpoint)
    details = {"format": "pt", "step": str(origin.step), "saved": origin.time}
    details["checkpoint"] = origin.checkpoint.name
    with _written(target) as temporary:
        _save({name: text for name, text in details.items() if text}, tensors, temporary)
        _check_target(source, target, force)  # it may have come about meanwhile
    return Exported(target, origin.checkpoint, origin.step, len(tensors), target.stat().st_size, left_out)


def read_weights(source: Path, part: str = PART) -> tuple[dict[str, Any], Origin]:
    """The weights in a checkpoint of this project or of another program; no code in it is run.

    Args:
        source: as in `export`; of another program a file, or a folder that holds one.
        part: of the training's state.

    Raises:
        IscError: there are none, or they cannot be read.
    """
    if not _is_foreign(source):
        entry, manifest = find(source)
        return _load(entry, manifest, part), Origin(entry.path, manifest.step, manifest.time)
    from isc_runtime.checkpointing.on_disk.foreign_source import find_foreign, read_foreign
    from isc_runtime.checkpointing.on_disk.foreign_state import take_parts

    file = find_foreign(source)
    taken = take_parts(read_foreign(file), file, {} if part == PART else {PART: part})
    return dict(taken.parts[PART]), Origin(file, taken.numbers.get("step", 0), "")


def _is_foreign(source: Path) -> bool:
    """Whether what a path means is of another program."""
    try:
        if source.is_dir():
            every = [entry for layout in layouts(source) for entry in layout.entries()]
            is_own = os.path.lexists(source / MANIFEST) or any(entry.is_complete for entry in every)
            if is_own or folder_of(source) is not None:
                return not is_own
            others = [path for path in foreign_in(source) if not is_ours(path)]
            return any(path.is_dir() or is_foreign(linked(path)) for path in others)
        file = linked(source)  # Path.resolve raises where a link leads to itself
        return is_foreign(file) and not has_manifest(file) and not _is_json(source)
    except OSError:
        return False


def _is_json(file: Path) -> bool:
    """Whether it is a manifest, which means the checkpoint beside it."""
    return file.suffix == ".json" and not file.name.endswith(INDEX)


def find(source: Path) -> tuple[Entry, Manifest]:
    """The checkpoint that a path means, verified: itself, a file of it, a link to it, a directory of several.

    Raises:
        IscError: it means none, or several, or the checkpoint is damaged.
    """
    path = source.absolute()
    meant = [path]
    if path.is_symlink() and (name := path.readlink().name):
        meant.append(path.parent / name)  # by name: a copied artifact's link points to where it was
    try:
        for entry in filter(None, map(_entry_of, meant)):
            return _verified([entry])
        series = _series(meant[-1])
    except (FileNotFoundError, NotADirectoryError):
        series = []
    except OSError as error:
        raise IscError(f"It cannot be read ({error.strerror})", path, "Look at its permissions.") from None
    if len(series) != 1:
        what = "Several savers have checkpoints here" if series else "There is no checkpoint"
        hint = "Name a checkpoint: python -m isc_runtime checkpoints DIRECTORY lists them."
        raise IscError(what, source, hint, ExitCode.CHECKPOINT)
    return _verified(series[0])


def _entry_of(file: Path) -> Entry | None:
    """The checkpoint that a file is, or is of. Raises OSError."""
    for place in (file, file.parent):
        for entry in [entry for entries in _series(place.parent) for entry in entries]:
            if place in (entry.path, entry.payload, entry.manifest):
                return entry
    return None


def _is_kept(file: Path) -> bool:
    """Whether it is of a checkpoint of this project, as far as one may look. Raises OSError."""
    with contextlib.suppress(PermissionError):  # the folder above need not be readable
        return _entry_of(file) is not None
    return has_manifest(file)


def _series(directory: Path) -> list[list[Entry]]:
    return [entries for layout in layouts(directory) if (entries := layout.entries())]


def _verified(entries: list[Entry]) -> tuple[Entry, Manifest]:
    """The newest good one."""
    found = newest_good(entries, verified)
    if found.chosen is None:
        what = "; ".join(f"{entry.name}: {reason}" for entry, reason in found.damaged)
        hint = "Take another: python -m isc_runtime checkpoints --verify lists them."
        raise IscError(f"This is damaged ({what})", entries[-1].path.parent, hint, ExitCode.CHECKPOINT)
    return found.chosen


def _check_target(source: Path, target: Path, force: bool) -> None:
    """Raises IscError: it cannot be written, or something is there that must not be lost."""
    try:
        file = Path(os.path.realpath(target))
        if target.is_dir() or not file.parent.is_dir():
            what = "This is a directory" if target.is_dir() else "Its directory does not exist"
            raise IscError(what, target.absolute(), "Name the file to write, in a directory that exists.")
        if not file.exists():
            return
        if not file.is_file():
            raise IscError("This is no regular file", target.absolute(), "Name the file to write.")
        if os.path.realpath(source) == str(file) or _is_kept(file):
            hint = "Nothing was written. Take another name: --force replaces no checkpoint."
            raise IscError("This belongs to a checkpoint", target.absolute(), hint)
        if file.suffix != WEIGHTS_ALONE and is_foreign(file):  # those may be an earlier export
            hint = f"Nothing was written. Name a file {WEIGHTS_ALONE}: --force replaces no checkpoint."
            raise IscError("This is a checkpoint of another program", target.absolute(), hint)
    except OSError as error:
        hint = "Name a file that can be written."
        raise IscError(f"It cannot be written ({error.strerror})", target.absolute(), hint) from None
    if not force:
        raise IscError(
            "This file exists", target.absolute(), "Take another name, or replace it with --force."
        )


def _load(entry: Entry, manifest: Manifest, part: str) -> dict[str, Any]:
    """A part of a checkpoint, on the CPU, without running any code that it may hold."""
    from isc_runtime.checkpointing.on_disk.payload import read_state
    from isc_runtime.ranks.shards import ShardedTensors

    state = read_state(entry, manifest, ShardedTensors({}), [part]).get(part)
    if not isinstance(state, dict):
        hint = f"Name with --part what Trainer.state() in train.py calls it; by default it is {PART!r}."
        raise IscError(f"It has no weights of the name {part!r}", entry.payload, hint, ExitCode.CHECKPOINT)
    return _without_wrapper(state)


def _without_wrapper(state: dict[str, Any]) -> dict[str, Any]:
    """Of an AveragedModel what it averages."""
    others = state.keys() - {COUNT}
    if COUNT not in state or not all(name.startswith(INNER) for name in others):
        return state
    return {name.removeprefix(INNER): value for name, value in state.items() if name != COUNT}


def _tensors(state: dict[str, Any], part: str, checkpoint: Path) -> tuple[dict[str, Tensor], list[str]]:
    """What safetensors can hold: dense tensors that share no memory; and the names of what is none."""
    import torch

    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and isinstance(name, str):
            if value.layout is not torch.strided:
                hint = "Make it dense in model.py: the format has no other tensors."
                raise IscError(f"The tensor {name} is sparse", checkpoint, hint)
            value = value.resolve_conj().resolve_neg()  # the format knows no views that change what they show
            address = value.untyped_storage().data_ptr()
            tensors[name] = value.clone() if address in memory else value.contiguous()
            memory.add(address)
    if not tensors:
        raise IscError(f"The part {part!r} of this checkpoint has no tensors", checkpoint, "Export another.")
    return tensors, [str(name) for name in state if name not in tensors]


@contextlib.contextmanager
def _written(target: Path) -> Iterator[Path]:
    """A new file beside the target, which takes its place when the block ends well. Raises IscError."""
    file = Path(os.path.realpath(target))
    # no other export writes there, too: what one of them has half written would get the other's name
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        temporary.touch(exist_ok=False)
        usual_mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(usual_mode)  # safetensors lets nobody else read it
        sync_file(temporary)
        temporary.replace(file)
        sync_directory(file.parent)
    except OSError as error:
        hint = "Look at its directory: full, read-only, over quota?"
        what = f"It cannot be written ({error.strerror or error})"  # without the name of the temporary file
        raise IscError(what, target.absolute(), hint, ExitCode.SAVE) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _save(details: dict[str, str], tensors: dict[str, Tensor], file: Path) -> None:
    """Raises OSError, or IscError: the package is missing."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        hint = "Install what pyproject.toml names: make setup"
        raise IscError("The package safetensors is not installed", "", hint) from None
    try:
        save_file(tensors, file, metadata=details)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    except (KeyError, UnicodeEncodeError) as error:  # a dtype, a name
        hint = "Convert it in model.py, or name with --part another part of the training."
        raise IscError(f"The format has no words for {error}", details["checkpoint"], hint) from None
