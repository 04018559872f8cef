"""Putting a training into the state that a checkpoint holds."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Set
from functools import partial
from typing import Any, cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from isc_runtime import rng
from isc_runtime.checkpointing import imported
from isc_runtime.checkpointing.asked import Asked, plain_settings, settings_of
from isc_runtime.checkpointing.choosing import Chosen
from isc_runtime.checkpointing.dict_parts import Pairs, restore
from isc_runtime.checkpointing.filling import Stateful, exact_optimizers, fill, types_of_weights
from isc_runtime.checkpointing.kinds import in_own_kinds, with_versions
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import SHARDED, Damaged, Manifest, Progress
from isc_runtime.checkpointing.on_disk.payload import read_state
from isc_runtime.errors import START_OVER, ExitCode, IscError
from isc_runtime.position import Position
from isc_runtime.printable import listed
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.shards import ShardedTensors, distribute

EVALUATION = "evaluation"  # the part of the state that says how far an evaluation is
WHERE = (imported.POSITION, EVALUATION)

logger = logging.getLogger("checkpoint")


def load(state: Mapping[str, Stateful | dict[str, Any]], chosen: Chosen, group: Group, asked: Asked) -> int:
    """Loads a checkpoint that the ranks have verified into `state`, on one rank.

    Args:
        state: the parts, by name, the sampler, that is the position in the data, among them.
        chosen: the checkpoint.
        group: the ranks; each gets its own random numbers back if there are as many as there were.
        asked: what the command line asks for.

    Returns:
        How many saves the training had made.

    Raises:
        IscError: this node sees other bytes than another one, or it is the checkpoint of another training.
    """
    entry, manifest = chosen.entry, chosen.manifest
    verify = partial(_verify_here, chosen, group.busy)
    if group.environment.local_rank == 0:
        verify(manifest.files.keys() - set(manifest.shards))
    sharded = ShardedTensors(state, was_whole=manifest.details.get("format") != SHARDED)
    loaded = distribute(read_state(entry, manifest, sharded, about_to_read=verify), sharded)
    asked.check_members(loaded, state, entry.path)
    asked.reform(loaded, state)
    given, fresh = plain_settings(state), settings_of(state)
    sampler = cast(Position, state["sampler"])
    _put_all_back(state, loaded, entry, manifest)
    if "asked" in loaded:  # 0.1.0 did not note it
        asked.take_over(loaded["asked"], state, fresh)
    else:
        asked.insist(state, fresh)
    has, had = sampler.state_dict().get("length"), loaded["sampler"].get("length")
    if has != had:
        logger.warning("[RESUME] The data have %s samples, and had %s when this run was saved", has, had)
    begun = loaded.get("asked", {}).get("settings", {})
    _say_what_is_overruled(given, begun, plain_settings(state))
    if len(loaded["rng"]) == group.world_size:
        rng.restore(loaded["rng"][group.rank], group.device)
    else:  # another number of ranks: no generator goes on, but all are as good as new
        rng.seed_everything(sampler.seed + 1000 * sampler.progress.step + group.rank)
    return int(loaded["saves"])


def _put_all_back(
    state: Mapping[str, Stateful | dict[str, Any]], loaded: dict[str, Any], entry: Entry, manifest: Manifest
) -> None:
    """Fills the parts; of an import those that it lacks begin anew."""
    source, fresh = manifest.details.get(imported.IMPORTED), settings_of(state)
    missing = [EVALUATION] if EVALUATION not in loaded else []  # before 0.2.0 each one began anew
    if source:
        with _must_fit("sampler", loaded, entry, source):
            missing = imported.complete(loaded, state, str(source))
    dicts, is_mapped = Pairs(), manifest.details.get("format") != SHARDED
    versions = loaded.get("asked", {}).get("versions")
    with exact_optimizers(None if source else types_of_weights(state, loaded)):
        for name in (name for name in state if name not in missing):
            with _must_fit(name, loaded, entry, source):
                part, saved = state[name], loaded[name]
                if isinstance(part, dict):
                    dicts.append((part, copy.deepcopy(dict(saved)) if is_mapped else dict(saved)))
                    continue
                if source and isinstance(part, LRScheduler):
                    imported.check_scheduler(part, saved)
                if not source:
                    noted = None if versions is None else versions.get(name, {})
                    saved = with_versions(in_own_kinds(part.state_dict(), saved), noted)
                fill(part, saved, is_mapped)
                if source and isinstance(part, Optimizer):
                    imported.check_optimizer(part, fresh[name])
    restore(dicts, state.values())
    if source:
        imported.begin_anew(state, missing, fresh)


@contextlib.contextmanager
def _must_fit(name: str, loaded: Mapping[str, Any], entry: Entry, source: str | None) -> Iterator[None]:
    """Around the loading of a part: says which one does not fit. Raises IscError."""
    hint = f"Go back to the code that wrote it, or {START_OVER}."
    if source:
        hint = (
            f"It was imported from {source}. Move it away, and import that again: --strip and --model find "
            "other weights, --without leaves a part out; or begin with the weights alone: --init-from."
        )
    try:
        yield
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        forms = loaded.get("asked", {}).get("forms", {})
        if others := forms.get(name, {}).get("others"):
            hint = f"It had been given other parameters ({listed(others)}): build it so that it has them."
        misfit = "it has none" if name not in loaded else " ".join(str(error).split())[:500]
        if isinstance(error, KeyError) and name in loaded:
            misfit = f"it has no {misfit}: the state of another kind of {name}?"
        raise IscError(
            f"The checkpoint is of another training: its {name!r} does not fit ({misfit})",
            entry.path,
            hint,
            ExitCode.CHECKPOINT,
        ) from None


def _say_what_is_overruled(given: dict[str, Any], begun: dict[str, Any], kept: dict[str, Any]) -> None:
    """Names the settings that the checkpoint has replaced.

    Args:
        given: as the code and the command line give them now.
        begun: as they gave them when the run began; what differs from these, the training has changed.
        kept: the checkpoint's.
    """
    both = given.keys() & kept.keys()  # another version of torch may know other settings
    overruled = [key for key in sorted(both) if kept[key] != given[key] != begun.get(key, kept[key])]
    # A rate that is no longer what it was at first, the training or the command line has changed.
    overruled = [key for key in overruled if not key.endswith(" lr") or kept[key] == begun.get(key)]
    if overruled:
        logger.warning(
            "[RESUME] The checkpoint's settings hold (%s). To train with the others start over with --fresh.",
            "; ".join(f"{key}: {kept[key]}, not {given[key]}" for key in overruled),
        )


def _verify_here(chosen: Chosen, progress: Progress, names: Set[str]) -> None:
    """Compares those of these files with their checksums that only another node has seen to be good."""
    not_seen = names - chosen.seen_here
    if not not_seen:
        return
    try:
        chosen.manifest.verify(chosen.entry.payload.parent, progress, not_seen)
    except Damaged as reason:
        raise IscError(
            f"This node sees the checkpoint otherwise than another one ({reason})",
            chosen.entry.path,
            "All nodes must share the checkpoint directory.",
            ExitCode.CHECKPOINT,
        ) from None
