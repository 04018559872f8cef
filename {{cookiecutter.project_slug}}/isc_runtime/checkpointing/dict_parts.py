"""Parts that are dicts hold after a resume what they held when they were saved, in the objects of the code.

What a dict holds may be bound elsewhere, too: `self.state_of_dino = {"center": self.center}`. So tensors of
the same form are filled, and dicts and lists in it stay the ones that they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isc_runtime.ranks.shards import as_bytes, is_expanded, is_sharded, own_part
from isc_runtime.tree import Path, leaves

Items = dict[Any, Any]
Pairs = list[tuple[Items, Items]]


@torch.no_grad()
def restore(pairs: Pairs, parts: Iterable[Any]) -> None:
    """Fills dicts with what was saved of them.

    A key that the checkpoint does not know keeps what the code gives it: `forms` has removed those that the
    training had removed.

    Args:
        pairs: of a dict, and what it held. Tensors of the latter are taken over, or copied.
        parts: of the training, all others of which are loaded. What a tensor shares with one of these is not
            written to: a copy of the best weights may begin as the weights themselves.
    """
    places = frozenset(_places(parts))
    for part, saved in pairs:
        for key, value in saved.items():
            if dict.__contains__(part, key):
                _write(dict.__getitem__(part, key), value, places)
    known: dict[int, Any] = {}
    for part, saved in pairs:
        kept = {key: value for key, value in dict.items(part) if key not in saved}
        _fill(part, saved, known, kept)


def methods_of(part: Items) -> type[Items]:
    """The class whose methods do nothing but what they say: those of a subclass may count or average."""
    return OrderedDict if isinstance(part, OrderedDict) else dict


def _places(parts: Iterable[Any]) -> Iterator[int]:
    for part in parts:
        tensors: Iterable[Any] = ()
        if isinstance(part, nn.Module):
            tensors = [*part.parameters(), *part.buffers()]
        elif isinstance(part, Optimizer):  # which may wrap another one, and have no state of its own
            tensors = [leaf for _, leaf in leaves(dict(getattr(part, "state", {})))]
        yield from (_place(tensor) for tensor in tensors if isinstance(tensor, Tensor))


def _place(tensor: Tensor) -> int:
    """Where its memory begins; 0 if it has none of its own."""
    try:
        return own_part(tensor).untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _write(old: Any, saved: Any, places: frozenset[int]) -> None:
    """Copies tensors to where they were. Of two that share memory the last one counts: `_filled` sees."""
    if _has_same_form(old, saved):
        if _place(old) not in places:
            own_part(old).copy_(own_part(saved))
    elif isinstance(old, dict) and isinstance(saved, dict):
        for key in saved.keys() & old.keys():
            _write(dict.__getitem__(old, key), saved[key], places)
    elif isinstance(old, list | tuple) and isinstance(saved, list | tuple):
        for one, other in zip(old, saved, strict=False):
            _write(one, other, places)


def _has_same_form(old: Any, saved: Any) -> bool:
    if not (isinstance(old, Tensor) and isinstance(saved, Tensor)) or is_sharded(old) != is_sharded(saved):
        return False
    own = own_part(old)
    is_plain = own.layout is torch.strided and not (own.is_quantized or own.is_meta or own.is_inference())
    return is_plain and not is_expanded(own) and (old.shape, old.dtype) == (saved.shape, saved.dtype)


def _filled(old: Any, saved: Any, known: dict[int, Any]) -> Any:
    """What is to be in the place of a value: the same object, where it can hold what was saved.

    Args:
        old: as the code made it.
        saved: the value.
        known: what was filled so far with what, by the identity.
    """
    if isinstance(saved, Tensor):
        if _has_same_form(old, saved) and _is_equal(old, saved):
            return old
        return saved.to(old.device) if isinstance(old, Tensor) and not is_sharded(saved) else saved
    if type(saved) is tuple and isinstance(old, tuple) and len(old) == len(saved):
        return tuple(_filled(*pair, known) for pair in zip(old, saved, strict=True))
    kinds = [kind for kind in (dict, list) if isinstance(saved, kind) and isinstance(old, kind)]
    if not kinds:
        return saved
    if id(old) in known:  # it was there twice, and may have held two things since
        return old if _is_equal(known[id(old)], saved) else saved
    known[id(old)] = saved
    if isinstance(old, dict):
        _fill(old, saved, known, {})
    else:
        old[:] = [*(_filled(*pair, known) for pair in zip(old, saved, strict=False)), *saved[len(old) :]]
    return old


def shared(part: Items, parts: Iterable[Any]) -> set[Path]:
    """The paths of the tensors in a dict whose memory is that of a model or an optimizer."""
    tensors = [(path, leaf) for path, leaf in leaves(part) if isinstance(leaf, Tensor)]
    places = frozenset(_places(parts)) if tensors else frozenset()
    return {path for path, tensor in tensors if _place(tensor) in places}


def make_own(part: Items, path: Path) -> None:
    """Gives a tensor in a dict memory of its own."""
    node: Any = part
    for key in path[:-1]:
        node = node[key]
    methods_of(node).__setitem__(node, path[-1], node[path[-1]].detach().clone())


def _fill(part: Items, saved: Items, known: dict[int, Any], kept: Items) -> None:
    """In the order in which it was saved."""
    own = methods_of(part)
    before = dict(dict.items(part))
    items = {key: _filled(before.get(key), value, known) for key, value in saved.items()}
    own.clear(part)
    for key, value in {**items, **kept}.items():
        own.__setitem__(part, key, value)


def _is_equal(one: Any, other: Any) -> bool:
    """Bit by bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        is_alike = (one.shape, one.dtype) == (other.shape, other.dtype)
        return is_alike and torch.equal(_bytes(one), _bytes(other).to(own_part(one).device))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return type(one) is type(other) and bool(one == other or one != one)


def _bytes(tensor: Tensor) -> Tensor:
    return as_bytes(own_part(tensor).detach())
