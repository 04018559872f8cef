"""Checkpoints of other programs: which file or folder a path means, and what is in it, read as data."""

from __future__ import annotations

import pickle
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isc_runtime.checkpointing.on_disk.distributed import read_distributed
from isc_runtime.checkpointing.on_disk.entries import PAYLOAD
from isc_runtime.checkpointing.on_disk.foreign import (
    A_PICKLE,
    METADATA,
    PART,
    SAFETENSORS,
    described,
    other_checkpoints,
)
from isc_runtime.checkpointing.on_disk.foreign_folder import (
    INDEX,
    Folder,
    files_of,
    folder_of,
    is_of_deepspeed,
    linked,
    meant_by,
    numbers_in,
)
from isc_runtime.checkpointing.on_disk.layout import SET_ASIDE
from isc_runtime.checkpointing.on_disk.start_notes import LINK as NOTES
from isc_runtime.errors import ExitCode, IscError

NAME_IT = "Name the file: python -m isc_runtime checkpoints DIRECTORY lists what is there."
CONVERT = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"


def find_foreign(source: Path) -> Path:
    """What a path means: a file, or a folder of several that belong together.

    Args:
        source: it itself, a folder that holds one, or the folder of a saver, whose link says which one.

    Raises:
        IscError: there is none, or there are several, or it cannot be read without the program that wrote it.
    """
    try:
        return _find(source)
    except OSError as error:
        hint = "Look at its permissions."
        raise IscError(f"It cannot be read ({error.strerror})", source, hint, ExitCode.CHECKPOINT) from None


def _find(source: Path) -> Path:
    if not source.is_dir():
        if not source.is_file():
            raise IscError("There is no such file", source, NAME_IT, ExitCode.CHECKPOINT)
        return _whole(source) if source.name.endswith(PART) else source
    links = [link for link in source.glob("*.latest_checkpoint") if link.name != NOTES]
    # By name: a copied artifact's link points to where it was.
    folder = source / links[0].readlink().name if len(links) == 1 and links[0].is_symlink() else source
    if (folder / PAYLOAD).is_file():
        return folder / PAYLOAD
    if (folder / METADATA).is_file():
        return folder
    meant = {meant_by(path) for path in other_checkpoints(folder, folder / SET_ASIDE)}
    found = sorted(meant | {folder} if folder_of(folder) is not None else meant)
    if any(is_of_deepspeed(path) for path in (folder, *found)):
        what = "These are the parts of a checkpoint of DeepSpeed"
        hint = (
            "Its zero_to_fp32.py, which DeepSpeed puts beside them, makes one file of their weights: import "
            "that, with --step N, or begin with it: python train.py --init-from FILE."
        )
        raise IscError(what, source, hint, ExitCode.CHECKPOINT)
    if len(found) != 1:
        what = "There is no checkpoint here"
        if found:
            names = ", ".join(str(path.relative_to(folder)) for path in found[:5])
            what = f"There are several checkpoints here ({names}{', ...' if found[5:] else ''})"
        raise IscError(what, source, NAME_IT, ExitCode.CHECKPOINT)
    return _whole(found[0]) if found[0].name.endswith(PART) else found[0]


def _whole(part: Path) -> Path:
    """The folder that a file of torch.distributed.checkpoint is a part of. Raises IscError."""
    if (part.parent / METADATA).is_file():
        return part.parent
    what = f"This is a part of a checkpoint of torch.distributed.checkpoint, and {METADATA} is not beside it"
    hint = "Its save was cut short, or not all was copied: bring the rest, or take another one."
    raise IscError(what, part, hint, ExitCode.CHECKPOINT)


def read_foreign(path: Path, trust_pickle: bool = False) -> dict[str, Any]:
    """What `find_foreign` found, as one dict, on the CPU.

    Args:
        path: a file of torch.save, safetensors, or an index of such files; a folder of
            torch.distributed.checkpoint, transformers or accelerate.
        trust_pickle: whether it may run code.

    Raises:
        IscError: it cannot be read, holds no dict, or asks for code to be run and may not.
    """
    if path.is_dir() and not (path / METADATA).is_file() and (folder := folder_of(path)) is not None:
        return _read_folder(folder, trust_pickle)
    if path.name.endswith(INDEX):
        return _read_index(path, trust_pickle)
    try:
        state = _read(path, trust_pickle)
    except pickle.UnpicklingError as error:
        raise _untrusted(path, error) from None
    except Exception as error:  # of all kinds: torch stumbles over what is damaged in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        hint = "Is it whole, and of torch.save or safetensors?"
        if path.is_dir():
            hint = f"Is it whole? Torch's own command makes a file to import of it: {_conversion(path)}"
        raise IscError(f"It cannot be read ({reason})", path, hint, ExitCode.CHECKPOINT) from None
    if isinstance(state, nn.Module):  # trusted
        state = state.state_dict()
    if not isinstance(state, dict):
        hint = "Save a dict, or the model's state_dict()."
        raise IscError(f"It holds a {type(state).__name__} and no dict", path, hint, ExitCode.CHECKPOINT)
    return dict(state)


def _read(path: Path, trust_pickle: bool) -> Any:
    if path.is_dir():
        return read_distributed(path, trust_pickle)
    kind = described(linked(path)).kind
    if kind == SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(path)
    if kind == A_PICKLE and trust_pickle:
        with path.open("rb") as stream:
            return pickle.load(stream)
    with warnings.catch_warnings():  # that it is not torch's own pickle, which is said in words below
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=not trust_pickle)


def _read_folder(folder: Folder, trust_pickle: bool) -> dict[str, Any]:
    """Each part under the name of its file."""
    files = (folder.weights, *folder.parts)
    state: dict[str, Any] = {file.name: read_foreign(file, trust_pickle) for file in files}
    numbers = numbers_in(folder.numbers) if folder.numbers is not None else {}
    return {**state, **numbers, **{file.name: None for file in folder.left}}


def _read_index(index: Path, trust_pickle: bool) -> dict[str, Any]:
    """The weights of several files, all that the index names."""
    try:
        files = files_of(index)
    except (OSError, ValueError) as error:
        hint = "Take it from where the weights are from, once more."
        raise IscError(f"The index cannot be read ({error})", index, hint, ExitCode.CHECKPOINT) from None
    weights: dict[str, Any] = {}
    for file in sorted(set(files.values())):
        if not file.is_file():
            what = f"The index names {file.name}, which is not there"
            raise IscError(what, index, "Bring all of its files.", ExitCode.CHECKPOINT)
        weights |= read_foreign(file, trust_pickle)
    if missing := [name for name in files if name not in weights]:
        what = f"The index names {missing[0]}, which is not in {files[missing[0]].name}"
        raise IscError(what, index, "Bring the files that belong to it.", ExitCode.CHECKPOINT)
    return weights


def _conversion(folder: Path) -> str:
    return f"{CONVERT} {shlex.quote(str(folder))} FILE.pt"


def _untrusted(path: Path, error: pickle.UnpicklingError) -> IscError:
    words = " ".join(str(error).split())
    asked = re.search(r"(?:GLOBAL|global|class|asks for) '?([\w.]+\.[\w.]+)", words)
    reason = f"it asks for {asked[1]}" if asked else "it is more than plain data"
    if METADATA in words:  # which torch alone reads, if it is so
        return IscError(
            f"To read this folder would run code of whoever wrote it ({reason})",
            path,
            "If you have written it yourself: torch's own command makes a file to import of it, and lets it "
            f"run whatever code it holds, with all your rights: {_conversion(path)}",
            ExitCode.CHECKPOINT,
        )
    return IscError(
        f"To read this file would run code of whoever wrote it ({reason})",
        path,
        "If you have written it yourself: import --trust-pickle reads it, and lets it run whatever code "
        "it holds, with all your rights.",
        ExitCode.CHECKPOINT,
    )
