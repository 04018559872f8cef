"""A checkpoint holds plain dicts: what a part had instead of them, it gets back.

A `Counter` counts what it has not seen yet, a `defaultdict` makes it; and the state of a module says by which
version of each of its modules it was written, which torch keeps beside the items.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

from isc_runtime.checkpointing.dict_parts import methods_of
from isc_runtime.tree import leaves

METADATA = "_metadata"  # an attribute of what `nn.Module.state_dict` returns
USUAL = {"version": 1}  # of a module
PLAIN = (bool, int, float, str, type(None))

Versions = dict[str, dict[str, Any]]  # by part, and in it by module


def in_own_kinds(own: Any, saved: Any) -> Any:
    """What was saved, in containers of the kinds that a part has where it was built anew.

    Args:
        own: the part's state, as the code makes it.
        saved: of a checkpoint; it stays as it is.
    """
    if isinstance(own, dict) and isinstance(saved, dict):
        items = {key: in_own_kinds(dict.get(own, key), value) for key, value in saved.items()}
        return items if type(own) is dict else _of_kind(own, items)
    if type(own) is type(saved) and type(own) in (list, tuple):
        known = dict(enumerate(own))
        return type(own)(in_own_kinds(known.get(index), value) for index, value in enumerate(saved))
    return saved


def _of_kind(own: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    with contextlib.suppress(Exception):  # of a class of the user's that cannot be copied
        copied, methods = copy.copy(own), methods_of(own)
        methods.clear(copied)
        for key, value in items.items():
            methods.__setitem__(copied, key, value)
        return copied
    return items


def versions_of(state: Mapping[str, Any]) -> Versions:
    """The versions of the modules of which the state of each part was told, but for the usual ones."""
    found = {name: getattr(part, METADATA, None) or {} for name, part in state.items()}
    return {
        name: {
            module: dict(version)
            for module, version in modules.items()
            if version != USUAL and all(type(leaf) in PLAIN for _, leaf in leaves(version))
        }
        for name, modules in found.items()
        if modules
    }


def with_versions(state: Any, noted: Mapping[str, Any] | None) -> Any:
    """The state of a part with the versions that it was written with, where its modules ask for them.

    Args:
        state: as `in_own_kinds` returns it, with the versions of the code.
        noted: as `versions_of` has told them; None: nobody has, and those of the code are the best guess.
    """
    own = getattr(state, METADATA, None)
    if own is not None and noted is not None:
        setattr(state, METADATA, type(own)({module: noted.get(module, dict(USUAL)) for module in own}))
    return state
