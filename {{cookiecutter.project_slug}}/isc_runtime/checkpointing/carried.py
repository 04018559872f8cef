"""What a batch has computed and the next one goes on with, as a recurrent network's hidden state: unsaved.

A tensor that still belongs to the graph of the last batch is as a rule made anew by each: a loss of its own,
features. So it is named only if the next batch gives it to a module, as it is or detached.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isc_runtime.checkpointing.marks import is_readable, place
from isc_runtime.tree import leaves

LARGEST = 2**22  # elements: these are kept for a batch longer


class Carried:
    """Finds what goes from one batch into the next one.

    Args:
        found: told the name of it.
    """

    def __init__(self, found: Callable[[str], None]) -> None:
        self._found = found
        self._looking: list[Any] = []  # the hooks on modules
        self._waiting: list[Any] = []  # those on steps, which end that
        # By their places, which are not free while they are kept.
        self._kept: dict[int, tuple[str, Tensor]] = {}

    def saved(self, values: Iterable[tuple[str, Any]], own: frozenset[int], parts: Iterable[Any]) -> None:
        """To be called at a save: looks at the modules' inputs from now to the next step of an optimizer.

        Args:
            values: what is not saved, by name.
            own: where the tensors are that are saved.
            parts: of the training, the optimizers among them.
        """
        self._end()
        while self._waiting:  # not by themselves: torch goes through a step's hooks
            self._waiting.pop().remove()
        computed = [(name, leaf) for name, value in values for leaf in _computed(value)]
        self._kept = {place(leaf): (name, leaf.detach()) for name, leaf in computed if place(leaf) not in own}
        if self._kept and not _is_anything_compiled():
            every = list(parts)
            optimizers = [part for part in every if isinstance(part, Optimizer)]
            self._waiting = [one.register_step_pre_hook(lambda *_: self._end()) for one in optimizers]
            models = [part for part in every if isinstance(part, nn.Module)]
            # Not one hook for all modules: what is compiled meanwhile would not be, for good.
            self._looking = [
                module.register_forward_pre_hook(self._look) for model in models for module in _hooked(model)
            ]

    def _look(self, _: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for _path, leaf in leaves(inputs):
            if is_readable(leaf) and place(leaf) in self._kept:
                name, _kept = self._kept[place(leaf)]
                self._kept = {at: one for at, one in self._kept.items() if one[0] != name}
                self._found(name)

    def _end(self) -> None:
        while self._looking:
            self._looking.pop().remove()
        self._kept = {}


def _hooked(model: nn.Module) -> list[nn.Module]:
    """All of its modules, but for those that compute otherwise when they have hooks."""
    fast = (part for part in model.modules() if isinstance(part, nn.TransformerEncoderLayer))
    without = {module for part in fast for module in part.modules()}
    return [module for module in model.modules() if module not in without]


def _is_anything_compiled() -> bool:
    """A hook would become a part of it, or be refused there."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return compiler is not None and bool(compiler.counters["frames"])


def _computed(value: Any) -> Iterator[Tensor]:
    """The tensors of a graph: one, or those in a list, a tuple or a dict."""
    for _, leaf in leaves(value) if isinstance(value, list | tuple | dict | Tensor) else ():
        if is_readable(leaf) and leaf.grad_fn is not None and leaf.dim() > 0 and leaf.numel() <= LARGEST:
            yield leaf
