"""A mark tells whether a value has changed, be it in an object, in a container or on its way through one."""

from __future__ import annotations

import ast
import io
import itertools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from isc_runtime.checkpointing.marks import OTHER, Marker, differs, is_dataset, is_iterator, merged
from isc_runtime.training.workers import PreparedLoader


class Beta:
    """An object of the user's, which knows what holds it."""

    __module__ = "mine"

    def __init__(self, value: Any = 0, owner: Any = None) -> None:
        self.value, self.owner = value, owner


def generated() -> Iterator[Any]:
    """What a generator gives, one whose code is not the runtime's."""
    return ast.walk(ast.parse("1 + 2"))


def mark(value: Any) -> Any:
    return Marker(frozenset(), set()).of(value)


def trained() -> torch.optim.Optimizer:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    return torch.optim.AdamW([weight])


@pytest.mark.parametrize(
    ("made", "change"),
    [
        (lambda: [Beta()], lambda it: vars(it[0]).update(value=1)),
        (lambda: {"beta": Beta()}, lambda it: vars(it["beta"]).update(value=1)),
        (lambda: [Beta(torch.zeros(2))], lambda it: it[0].value.add_(1)),
        (lambda: Beta([1]), lambda it: it.value.append(2)),
        (lambda: Beta(nn.Linear(2, 2)), lambda it: it.value.bias.data.add_(1)),
        (lambda: Beta(trained()), lambda it: it.value.step()),
        (lambda: Counter(n=1), lambda it: it.update(n=1)),
        (lambda: defaultdict(int, n=1), lambda it: it.update(n=2)),
        (lambda: OrderedDict(n=1), lambda it: it.update(n=2)),
        (lambda: {1, 2}, lambda it: it.add(3)),
        (lambda: SimpleNamespace(n=1), lambda it: setattr(it, "n", 2)),
        (lambda: deque([1], maxlen=1), lambda it: it.append(2)),
        (itertools.count, next),
        (lambda: itertools.cycle([1, 2, 3]), next),
        (generated, next),
        (lambda: iter([1, 2]), next),
        (lambda: zip([1, 2], [3, 4], strict=True), next),
        (lambda: enumerate(generated()), next),
        (lambda: iter(DataLoader([1.0, 2.0], batch_size=1)), next),  # type: ignore[arg-type]
        (lambda: itertools.cycle(DataLoader([1.0, 2.0], batch_size=1)), next),  # type: ignore[arg-type]
    ],
)
def test_a_change_is_seen(made: Callable[[], Any], change: Callable[[Any], Any]) -> None:
    value = made()
    before = mark(value)
    assert not differs(before, mark(value)), "to look changes nothing"
    change(value)
    assert differs(before, mark(value))


@pytest.mark.parametrize(
    "value",
    [
        nn.Linear(1, 1),  # not within an object of the user's: the start names it
        io.StringIO("a"),
        np.random.SeedSequence(1),
        iter(PreparedLoader([1.0])),
        lambda: None,
    ],
)
def test_what_tells_nothing_is_like_anything(value: Any) -> None:
    assert mark(value) == OTHER
    assert not differs(OTHER, mark(1))


def test_what_is_saved_is_not_looked_at() -> None:
    model = nn.Linear(2, 2)
    own = frozenset(each.untyped_storage().data_ptr() for each in model.parameters())
    before = Marker(own, set()).of(Beta(model))
    with torch.no_grad():
        model.weight.add_(1)
    assert not differs(before, Marker(own, set()).of(Beta(model)))


def test_objects_that_know_each_other_end_somewhere() -> None:
    one = Beta()
    one.owner = Beta(owner=one)
    assert differs(mark(one), mark(Beta(1, one.owner)))
    many: Any = [0]
    for _ in range(20):
        many = [many] * 100
    mark(many)


def test_a_tensor_that_is_made_once_and_a_dict_that_grows_are_a_cache() -> None:
    nothing, made, other = mark(Beta(None)), mark(Beta(torch.ones(1))), mark(Beta(torch.zeros(1)))
    assert not differs(nothing, made)
    assert differs(merged(nothing, made), other)
    empty, one, two = mark({}), mark({"n": 1}), mark({"n": 2})
    assert not differs(empty, one)
    assert differs(merged(empty, one), two), "a count in it is none"


def test_what_a_batch_has_computed_is_no_state() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert not differs(mark((weight * 2).sum()), mark((weight * 3).sum()))


def test_the_length_of_a_cache_that_is_made_once_is_one_too() -> None:
    assert not differs(mark(None), mark(8))
    assert differs(merged(mark(None), mark(8)), mark(9))


def test_a_single_value_may_have_any_stride() -> None:
    assert differs(mark(torch.zeros(1, 4)[:, 0]), mark(torch.ones(1, 4)[:, 0]))


def test_what_gives_samples_is_a_dataset() -> None:
    assert is_dataset(Subset([1], [0]))  # type: ignore[arg-type]
    assert not is_dataset(Beta())
    assert not is_dataset(generated())
    assert is_iterator(generated())
    assert not is_iterator(Tensor)
