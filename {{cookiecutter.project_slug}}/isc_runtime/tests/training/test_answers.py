"""What the functions of model.py and data.py return is looked at, and what is wrong said in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.small_training import made_data
from isc_runtime.training.answers import check_best, check_scores, loss_of
from isc_runtime.training.loaders import Data, load
from isc_runtime.training.means import Best, Mean

LOSS = torch.ones((), requires_grad=True)
DATA = made_data(3, seed=0)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (LOSS, r"a Tensor of shape \[\]"),
        (None, r"nothing \(None\)"),
        ((LOSS, 3), "a tuple of 2"),
        ({}, "an empty dict"),
        ({"total": Mean(LOSS, 3), "accuracy": Mean(LOSS, 3)}, 'a dict of "total", "accuracy"'),
        (Mean(LOSS, 3), "a Mean"),
        ({"loss": LOSS}, r'a "loss" that is a Tensor of shape \[\]'),
        ({"loss": (LOSS, 3)}, 'a "loss" that is a tuple of 2'),
        ({"loss": Mean(LOSS, 3), "accuracy": 0.5}, 'an? "accuracy" that is a float'),
        ({"loss": Mean(LOSS.detach(), 3)}, 'a "loss" whose total has no gradient'),
        ({"loss": Mean(1.5, 3)}, 'a "loss" whose total has no gradient: a float'),  # type: ignore[arg-type]
        ({"loss": Mean(LOSS.expand(3), 3)}, r"not one number but a Tensor of shape \[3\]"),
        ({"loss": Mean(LOSS, None)}, r"not one number but nothing \(None\)"),  # type: ignore[arg-type]
        ({"loss": Mean(LOSS, torch.ones(2))}, r"not one number but a Tensor of shape \[2\]"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_said(returned: Any, said: str) -> None:
    with pytest.raises(IscError, match=rf"^batch_loss returned .*{said}.*: model\.py\. \w") as raised:
        loss_of(returned)
    assert raised.value.exit_code is ExitCode.USAGE
    assert str(raised.value).count("\n") == 0


def test_a_loss_is_what_it_is() -> None:
    """A closure of evaluation may ask for it without gradients."""
    assert loss_of({"loss": Mean(LOSS, torch.tensor(3)), "more": Mean(torch.ones(1), 2)}).total is LOSS
    with torch.no_grad():
        assert loss_of({"loss": Mean(LOSS * 2, 3)}).count == 3


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.ones(4), r"a Tensor of shape \[4\]"),
        ([0.5], "a list of 1"),
        (0.5, "a float"),
        ({"accuracy": Mean(torch.ones(4), 4)}, r"not one number but a Tensor of shape \[4\]"),
        ({"accuracy": Mean(torch.ones(()), "4")}, "not one number but a str"),  # type: ignore[arg-type]
        ({"accuracy": torch.ones(())}, r'an? "accuracy" that is a Tensor of shape \[\]'),
    ],
)
def test_scores_that_cannot_be_added_up_are_said(returned: Any, said: str) -> None:
    with pytest.raises(IscError, match=rf"^batch_scores returned .*{said}.*: model\.py\. \w") as raised:
        check_scores(returned)
    assert raised.value.exit_code is ExitCode.USAGE


def test_numbers_of_any_kind_are_scores() -> None:
    scores = {"a": Mean(3, 4), "b": Mean(np.float32(0.5), np.int64(2)), "c": Mean(torch.ones(1, 1), 1)}  # type: ignore[arg-type]
    check_scores(scores)
    check_best(Best("b", more_is_better=True), scores)


@pytest.mark.parametrize("best", [Best("f1", more_is_better=True), "accuracy", None])
def test_what_says_what_is_best_is_one_of_the_scores(best: Any) -> None:
    with pytest.raises(IscError, match=r'(names "f1"|^BEST is (a str|nothing).*must be a Best)') as raised:
        check_best(best, {"accuracy": Mean(torch.ones(()), 1)})
    assert raised.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, r"nothing \(None\)"),
        (DATA, "a TensorDataset"),
        ((DATA,), "a tuple of 1"),
        ({"train": DATA, "test": DATA}, 'a dict of "train", "test"'),
        ((DATA, None), r"nothing \(None\) as held-out data"),
        ((None, DATA), r"nothing \(None\) as training data"),
        ((DataLoader(DATA), DATA), "a DataLoader as training data"),
        ((DATA, DataLoader(DATA)), "a DataLoader as held-out data"),
        (((one for one in [1]), DATA), "a generator as training data, which can be read only once"),
        ((zip([1], [2], strict=True), DATA), "a zip as training data, which can be read only once"),
        ((type(DATA), DATA), "the class TensorDataset itself as training data"),
        ((DATA, DATA, DATA), "a TensorDataset in third place, where the function is"),
        ((DATA, DATA, None, None, None), "a tuple of 5"),
    ],
)
def test_what_is_no_pair_of_datasets_is_said(returned: Any, said: str) -> None:
    with pytest.raises(IscError, match=rf"^load_data returned {said}.*: data\.py\. It must") as raised:
        load(lambda: returned)
    assert raised.value.exit_code is ExitCode.DATA


def test_pairs_of_all_kinds_are_data() -> None:
    assert load(lambda where: [where, DATA], DATA) == Data(DATA, DATA)
    assert load(lambda: Data(DATA, DATA, collate=list)).collate is list
    plain: Any = load(lambda: ([1, 2], range(3)))
    assert (plain.training, plain.held_out) == ([1, 2], range(3))
    assert load(lambda: ({1, 2}, DATA)).held_out is DATA
