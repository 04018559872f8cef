"""Which checkpoint a resume goes on from: the newest of which every byte is as it was saved.

What every rank must read the master compares with its checksum. The shards of a sharded checkpoint the ranks
compare together, each as many as any other, and on as many ranks as have saved it those that it reads itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.manifest import Damaged, Manifest
from isc_runtime.checkpointing.on_disk.verification import verify_files
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.ranks.group import Group


@dataclass(frozen=True)
class Chosen:
    """A good checkpoint.

    Attributes:
        entry: it.
        manifest: its own.
        seen_here: the names of its files whose bytes a rank of this node has compared.
    """

    entry: Entry
    manifest: Manifest
    seen_here: frozenset[str]


def choose(store: Store, group: Group) -> Chosen | None:
    """The newest good checkpoint, if there is one; damaged newer ones are set aside. All ranks call it.

    Raises:
        RankError: there are checkpoints, and none of them is good.
    """
    damaged: dict[Path, str] = {}  # what a rank has found to be so, by its payload

    def examine(entry: Entry) -> Manifest:
        if entry.payload in damaged:
            raise Damaged(damaged[entry.payload])
        manifest = entry.read_manifest()
        verify_files(entry, manifest, manifest.files.keys() - set(manifest.shards), group.busy)
        return manifest

    while (found := group.master(lambda: store.choose(examine))) is not None:
        reason, seen_here = _compare_together(*found, group)
        if not reason:
            return Chosen(*found, seen_here)
        damaged[found[0].payload] = reason
    return None


def _compare_together(entry: Entry, manifest: Manifest, group: Group) -> tuple[str, frozenset[str]]:
    """What is wrong with the shards of a checkpoint, and the names of all files that this node has seen."""
    shards, node = manifest.shards, group.environment.node_rank
    rest = frozenset(manifest.files) - set(shards) if node == 0 else frozenset()  # where the master is
    if not shards:
        return "", rest
    shares = [shards[rank :: group.world_size] for rank in range(group.world_size)]
    said = group.gather((node, group.each(lambda: _damage(entry, manifest, shares[group.rank], group))))
    here = [name for share, (at, _) in zip(shares, said, strict=True) if at == node for name in share]
    return next((reason for _, reason in said if reason), ""), rest.union(here)


def _damage(entry: Entry, manifest: Manifest, names: list[str], group: Group) -> str:
    try:
        verify_files(entry, manifest, names, group.busy)
    except Damaged as reason:
        return str(reason)
    return ""
