"""An evaluation that is interrupted goes on where it was, on any number of ranks."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from isc_runtime.environment import Environment
from isc_runtime.errors import IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.processes import Place, differences, rest_of, wait_for
from isc_runtime.training.evaluation import Evaluation
from isc_runtime.training.loaders import Data
from isc_runtime.training.means import Best, Mean, Means

VALUES = torch.linspace(0.1, 2.3, 23, dtype=torch.float64)


class Interrupted(Exception):
    pass


class Saves:
    """Counts what a Checkpointer would be asked, and interrupts at one of the polls."""

    def __init__(self, last_poll: int) -> None:
        self.left = last_poll
        self.saved = 0

    def equalize(self) -> None:
        """There are no buffers."""

    def is_due(self) -> bool:
        return True

    def save(self) -> None:
        self.saved += 1

    def poll(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def evaluations(world_size: int) -> list[Evaluation]:
    data = Data(TensorDataset(VALUES), TensorDataset(VALUES))
    environments = [Environment(rank=rank, world_size=world_size) for rank in range(world_size)]
    return [Evaluation(data, 2, Group(one, torch.device("cpu"))) for one in environments]


def evaluate(ranks: list[Evaluation], polls: int = 0) -> list[float]:
    """All ranks look at their parts, up to so many polls. Returns the samples that counted."""
    seen: list[float] = []
    for rank in ranks:
        saves = Saves(polls)
        try:
            for (batch,), counts in rank.batches(saves):
                rank.add({"value": Mean(batch.sum(), len(batch))}, counts)
                seen += batch.tolist() if counts else []
        except Interrupted:
            assert saves.saved <= polls
    return seen


def taken_over(before: list[Evaluation], world_size: int) -> list[Evaluation]:
    """What a checkpoint of those brings to so many ranks."""
    state: dict[str, Any] = {**before[0].state_dict(), "ranks": [rank.rank_state() for rank in before]}
    after = evaluations(world_size)
    for rank in after:
        rank.load_state_dict(state)
    return after


def sums(ranks: list[Evaluation]) -> list[float]:
    return [sum(values) for values in zip(*(rank.rank_state()["value"] for rank in ranks), strict=True)]


@pytest.mark.parametrize("polls", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(("had", "has"), [(1, 1), (2, 2), (3, 3), (2, 3), (3, 1), (1, 4), (4, 2)])
def test_each_sample_counts_once(had: int, has: int, polls: int) -> None:
    before = evaluations(had)
    seen = evaluate(before, polls)
    after = taken_over(before, has)
    seen += evaluate(after)
    assert sorted(seen) == VALUES.tolist()
    total, count = sums(after)
    assert total == pytest.approx(float(VALUES.sum()), rel=1e-14)
    assert count == 23


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_on_as_many_ranks_it_is_the_same_to_the_last_bit(world_size: int) -> None:
    whole, before = evaluations(world_size), evaluations(world_size)
    evaluate(whole)
    evaluate(before, 2)
    after = taken_over(before, world_size)
    evaluate(after)
    assert [rank.rank_state() for rank in after] == [rank.rank_state() for rank in whole]


def test_it_can_be_interrupted_after_its_last_batch() -> None:
    (before,) = evaluations(1)
    evaluate([before], polls=12)
    (after,) = taken_over([before], 1)
    assert evaluate([after]) == []
    assert after.end() == {"value": pytest.approx(float(VALUES.mean()))}
    assert not after.is_under_way
    assert after.state_dict() == {}


def test_it_is_tried_out_and_nothing_notices() -> None:
    (evaluation,) = evaluations(1)
    before = torch.get_rng_state()
    seen: list[Any] = []

    def scores(batch: Any) -> Means:
        assert not torch.is_grad_enabled()
        seen.append(batch[0] + torch.rand(2) * 0)
        return {"value": Mean(batch[0].sum(), 2)}

    evaluation.try_out(scores, Best("value", more_is_better=True))
    assert torch.equal(seen[0], VALUES[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert not evaluation.is_under_way
    with pytest.raises(IscError, match=r'batch_scores returned a dict of "value", and BEST names "f1"'):
        evaluation.try_out(scores, Best("f1", more_is_better=True))
    with pytest.raises(IscError, match="batch_scores returned a list of 1"):
        evaluation.try_out(lambda batch: batch, Best("f1", more_is_better=True))


def test_what_is_compiled_is_not_compiled_to_be_tried_out() -> None:
    """It would be compiled for other shapes, and be slower from then on."""
    (evaluation,) = evaluations(1)
    compiled: list[Any] = []

    def compiler(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph

    total = torch.compile(torch.sum, backend=compiler)
    evaluation.try_out(lambda batch: {"value": Mean(total(batch[0]), 2)}, Best("value", more_is_better=True))
    assert compiled == []


def test_of_other_data_it_begins_anew() -> None:
    (before,) = evaluations(1)
    evaluate([before], 3)
    (after,) = evaluations(1)
    after.load_state_dict({**before.state_dict(), "length": 99, "ranks": [before.rank_state()]})
    assert not after.is_under_way
    after.load_state_dict({})
    assert not after.is_under_way


@pytest.mark.parametrize(("had", "has", "number"), [(1, 1, signal.SIGTERM), (2, 1, signal.SIGKILL)])
def test_a_training_goes_on_in_its_evaluation(
    tmp_path: Path, had: int, has: int, number: signal.Signals
) -> None:
    """Killed in an evaluation that takes longer than a cycle, again and again: each one ends further."""
    place = Place(tmp_path)
    arguments = ("--epochs", "1", "--save-seconds", "0.3", "--save-steps", "1000")
    process = place.start(*arguments, "--eval-pause", "0.6", ranks=had)
    said = wait_for(process, "evaluated a batch after step")
    for sign in ("[ATTEMPT]", "[COMPLETE]"):  # of a save that began in the evaluation
        said += wait_for(process, sign)
    process.send_signal(number)
    said += rest_of(process)
    resumed = place.train(*arguments, ranks=has)
    assert resumed.code == 0, resumed.output
    assert resumed.steps(": loss") == [], "no step is trained again"
    assert re.search(r"evaluation at sample (4|8|12|16|20) of 20", resumed.output)
    (tmp_path / "whole").mkdir()
    whole = Place(tmp_path / "whole")
    assert whole.train(*arguments, ranks=had).code == 0
    if had == has:
        paths = [path for path in differences(place.newest(), whole.newest()) if "eval_pause" not in path]
        assert paths == []
    else:
        loss = whole.newest()["metrics"]["best_loss"]
        assert place.newest()["metrics"]["best_loss"] == pytest.approx(loss, rel=1e-6)  # of float32 batches
