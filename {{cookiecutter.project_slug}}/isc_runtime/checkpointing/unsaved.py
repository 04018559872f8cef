"""What a training changes and does not save is known by its changing: a count, a generator, a history."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from isc_runtime.checkpointing.carried import Carried
from isc_runtime.checkpointing.collected import Collected
from isc_runtime.checkpointing.looked_at import containers_of, look, values_of
from isc_runtime.checkpointing.marks import ITERATOR, differs, is_readable, merged, place
from isc_runtime.position import Position
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.weights import unlike_weights
from isc_runtime.tree import leaves, nodes

logger = logging.getLogger("checkpoint")


class Unsaved:
    """Names what has changed since the start, and is in no checkpoint: a resume would begin with a new one.

    Looked at is what the training itself holds, its modules, its optimizers and its datasets, and in objects
    of the user's that these hold: plain values, tensors, random number generators, iterators, models, and
    containers of all that; and the generators of its modules. A tensor that is made once, and a dict that
    only grows, are taken for a cache. What worker processes change in their copies of a dataset is not seen.

    And weights that are not the first rank's, which are saved, and gradients that outlive a batch.

    Args:
        training: as it is before the first batch.
        group: the ranks.
    """

    def __init__(self, training: Any, group: Group) -> None:
        self._training = training
        self._group = group
        self._kind = type(training).__name__
        self._named: set[str] = set()
        self._by_identity: set[str] = set()
        self._saves = {True: 0, False: 0}  # in training, and after an evaluation
        self._is_apart = False
        self._collected, self._carried = Collected(), Carried(self._say)
        self._in_dicts = containers_of(training.state())  # a resume fills these
        self._marks = look(training, self._kind, frozenset(), self._in_dicts)

    def saved(self, state: Any) -> None:
        """To be called at each save, with what is saved: looks at the 1st, 2nd, 4th, ... in training, and as
        many after evaluations, for which some models change. A collective."""
        parts = self._training.state()
        is_training = all(part.training for part in parts.values() if isinstance(part, nn.Module))
        self._saves[is_training] = saves = self._saves[is_training] + 1
        if saves & (saves - 1):
            return
        for name in self.changed(state):
            self._say(name)
        for name in _kept_by_identity(parts, state) - self._by_identity:
            self._by_identity.add(name)
            logger.warning(
                "[STATE] %r saves something by the id() of a parameter, which is another one in another "
                "process: a resume would not find it. Save it by the parameter's name, or by its number.",
                name,
            )
        values = values_of(self._training, self._kind, self._in_dicts)
        unnamed = [
            (name, value) for name, value in values if name not in self._named and not self._is_declared(name)
        ]
        self._carried.saved(unnamed, _places(state), parts.values())
        self._collected.saved(parts)
        self._compare_weights()

    def _say(self, name: str) -> None:
        self._named.add(name)
        holder = self._training.state().get(name.partition(".")[0])
        logger.warning(
            "[STATE] %s changes in training and is not saved: a resume would begin with a new one. %s; "
            "or add %r to %s.left_out if it comes out the same, as a cache does.",
            *(name, _advice(name, self._kind, self._marks.get(name), holder)),
            *(name.removeprefix(f"{self._kind}."), self._kind),
        )

    def _is_declared(self, name: str) -> bool:
        declared = getattr(self._training, "left_out", ())
        names = [*declared, *(f"{self._kind}.{one}" for one in declared)]
        return any(f"{name}.".startswith(f"{one}.") for one in names)

    def _compare_weights(self) -> None:
        """Warns once if the ranks have come apart. A collective."""
        parts = self._training.state()
        modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        found = None if self._is_apart else unlike_weights(modules, self._group)
        if found is not None:
            self._is_apart = True
            logger.warning(
                "[STATE] The weights of the ranks have come apart: %s of rank %d is not that of rank 0. Only "
                "rank 0's are saved, and a resume would give them to all. Gradients are the same on all "
                "ranks after the whole backward pass, not in its hooks, and only of what self.replica "
                "returned, not the model in it; what a forward pass writes belongs into a buffer, and not "
                "into a parameter, be it frozen.",
                *reversed(found),
            )

    def changed(self, state: Any) -> list[str]:
        """The names of what has changed since the start, those that were not named yet."""
        marks, found = look(self._training, self._kind, _places(state), self._in_dicts), list[str]()
        for name, mark in marks.items():
            before = self._marks.setdefault(name, mark)
            if not differs(before, mark):
                self._marks[name] = merged(before, mark)
            elif name not in self._named:
                self._named.add(name)
                if not self._is_declared(name):
                    found.append(name)
        return found


def _kept_by_identity(parts: Mapping[str, Any], state: Mapping[str, Any]) -> set[str]:
    """The names of the parts in whose states the identity of a parameter is a key."""
    modules = [part.parameters() for part in parts.values() if isinstance(part, nn.Module)]
    groups = [part.param_groups for part in parts.values() if isinstance(part, Optimizer)]
    own = {id(one) for found in modules for one in found}
    own |= {id(one) for found in groups for group in found for one in group["params"]}
    dicts = [
        (name, node) for name, part in state.items() for _, node in nodes(part) if isinstance(node, dict)
    ]
    return {name for name, node in dicts if not own.isdisjoint(key for key in node if type(key) is int)}


def _places(state: Any) -> frozenset[int]:
    return frozenset(place(leaf) for _, leaf in leaves(state) if is_readable(leaf))


def _advice(name: str, kind: str, mark: Any, holder: Any) -> str:
    """What to do about a value, by its name and what it was.

    Args:
        name: of it.
        kind: the name of the training.
        mark: of it.
        holder: the part of the training that has it, if one has.
    """
    if isinstance(mark, tuple) and mark[0] == ITERATOR:
        return (
            "Let it begin where it was: by a loaders.make_position of its own, which state() returns, and a "
            "loaders.training_loader; or count in metrics what was taken, and skip that"
        )
    if ":" in name:
        return "Draw from torch's, NumPy's or Python's own generators, which are saved"
    if name.startswith(f"{kind}.data."):
        return "Draw from torch's, NumPy's or Python's own generators, or give the dataset a state_dict"
    if name.startswith(f"{kind}."):
        said = "Keep it in a dict that state() returns, such as metrics, a generator by its state"
        is_held = name.count(".") > 1
        return f"{said}, or give what holds it a state_dict and add that" if is_held else said
    if isinstance(holder, Optimizer):
        return "Keep it in its state or in a parameter group, which are in its state_dict"
    if isinstance(holder, Position):
        return "Set it before each epoch, by what the position says of that, and so after a resume, too"
    return "Keep it in a persistent buffer, or tell it with get_extra_state, a generator by its state"
