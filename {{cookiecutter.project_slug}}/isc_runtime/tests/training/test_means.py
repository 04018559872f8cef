"""Means are over all samples, or tokens, of all batches and ranks, whatever the sizes of the batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.tests.processes import run_forked
from isc_runtime.training.means import Best, Mean, Totals


def test_batches_weigh_what_they_count(group: Group) -> None:
    totals = Totals(group)
    totals.add({"loss": Mean(torch.tensor(6.0), 3, then=math.exp), "hits": Mean(torch.tensor(1), 3)})
    totals.add({"loss": Mean(torch.tensor(2.0), 1, then=math.exp), "hits": Mean(torch.tensor(1), 1)})
    totals.add(
        {"loss": Mean(torch.tensor(torch.nan), 9, then=math.exp), "hits": Mean(torch.tensor(7), 9)},
        counts=False,
    )
    assert totals.over_ranks() == {"loss": pytest.approx(math.exp(2.0)), "hits": 0.5}
    assert Totals(group).over_ranks() == {}


def test_over_ranks(tmp_path: Path) -> None:
    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            totals = Totals(group)
            totals.add({"loss": Mean(torch.tensor(1.0 + 9 * group.rank), 1 + 2 * group.rank)})
            print(totals.over_ranks()["loss"])

    ended = run_forked(tmp_path, work)
    assert [(end.code, end.output.strip()) for end in ended] == [(0, "2.75")] * 2


def test_what_some_ranks_have_nothing_of(tmp_path: Path) -> None:
    """A rare class: in the batches of one rank it is not, and the sums must not get mixed up."""

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            totals = Totals(group)
            if group.rank:
                totals.add({"rare": Mean(torch.tensor(6.0), 3, then=lambda mean: 10 * mean)})
                totals.add({"other": Mean(torch.tensor(5.0), 1)})
            totals.add({"loss": Mean(torch.tensor(1.0), 2)})
            print(totals.over_ranks(), Totals(group).over_ranks())

    ended = run_forked(tmp_path, work)
    expected = "{'loss': 0.5, 'rare': 20.0, 'other': 5.0} {}"
    assert [(end.code, end.output.strip()) for end in ended] == [(0, expected)] * 2


def test_what_was_seen_only_before_an_interruption_is_a_mean_all_the_same(
    group: Group, tmp_path: Path
) -> None:
    """An evaluation goes on: what is made of a mean is known again when it is seen again."""
    before = {"rare": [6.0, 3.0], "common": [4.0, 2.0]}
    totals = Totals(group)
    totals.go_on_from(before)
    totals.add({"common": Mean(torch.tensor(2.0), 1, then=lambda mean: 10 * mean)})
    assert totals.over_ranks() == {"rare": 2.0, "common": 20.0}

    def work() -> None:
        with process_group(Environment.read(), 60, 60) as group:
            totals = Totals(group)
            if group.is_master:
                totals.go_on_from(before)
            else:
                totals.add({"common": Mean(torch.tensor(2.0), 1, then=lambda mean: 10 * mean)})
            print(totals.over_ranks())

    ended = run_forked(tmp_path, work)
    expected = "{'rare': 2.0, 'common': 20.0}"
    assert [(end.code, end.output.strip()) for end in ended] == [(0, expected)] * 2


def test_numbers_are_as_good_as_tensors(group: Group) -> None:
    totals = Totals(group)
    hits = Mean(3, torch.tensor(4))  # type: ignore[arg-type]  # as `.item()` gives them
    totals.add({"hits": hits, "loss": Mean(torch.ones(1, 1), 2)})
    assert totals.over_ranks() == {"hits": 0.75, "loss": 0.5}


@pytest.mark.parametrize(
    ("then", "total", "expected"), [(math.exp, 1e6, math.inf), (math.log, 0.0, math.nan)], ids=["exp", "log"]
)
def test_what_no_number_can_hold_ends_no_training(
    group: Group, then: Callable[[float], float], total: float, expected: float
) -> None:
    """The perplexity of a model that has just begun."""
    totals = Totals(group)
    totals.add({"score": Mean(torch.tensor(total), 1, then=then)})
    assert totals.over_ranks() == pytest.approx({"score": expected}, nan_ok=True)


def test_a_loss_for_each_sample_is_refused(group: Group) -> None:
    with pytest.raises(IscError, match=r"one number each.* \[3\]: 'loss' in .*Sum over") as raised:
        Totals(group).add({"loss": Mean(torch.ones(3), 3)})
    assert raised.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(("more", "expected"), [(True, [0.5, 0.5, 0.9]), (False, [0.5, 0.2, 0.2])])
def test_what_is_best(more: bool, expected: list[float]) -> None:
    best, so_far = Best("score", more_is_better=more), []
    value = best.worst
    for score in (0.5, 0.2, 0.9):
        value = best.better_of(value, {"score": score, "other": 1.0})
        so_far.append(value)
    assert so_far == expected
    assert best.better_of(value, {"score": math.nan}) == value


def test_a_score_that_the_evaluation_does_not_have_is_said() -> None:
    with pytest.raises(IscError, match=r"no 'accuracy'.*model\.py.*Name one of.*: loss\.") as raised:
        Best("accuracy", more_is_better=True).better_of(0.0, {"loss": 1.0})
    assert raised.value.exit_code is ExitCode.USAGE
