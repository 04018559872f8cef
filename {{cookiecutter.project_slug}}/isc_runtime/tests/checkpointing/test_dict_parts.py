"""A dict holds what it held when it was saved, in its order, and its tensors stay where they are bound."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.dict_parts import restore


def restored(part: dict[Any, Any], saved: dict[Any, Any], *parts: Any) -> dict[Any, Any]:
    restore([(part, saved)], [part, *parts])
    return part


class Averaging(dict[str, float]):
    """Changes what is put into it."""

    def __setitem__(self, key: str, value: float) -> None:
        super().__setitem__(key, 0.5 * self.get(key, 0.0) + 0.5 * value)


@pytest.mark.parametrize(
    "part", [{"b": 1, "c": 2}, OrderedDict(b=1, c=2), Counter(b=1, c=2), Averaging(b=1.0, c=2.0)]
)
def test_a_dict_holds_what_was_saved_and_what_the_code_has_added_since(part: dict[str, Any]) -> None:
    assert list(restored(part, {"a": 4, "b": 7}).items()) == [("a", 4), ("b", 7), ("c", 2)]
    part.pop("b")
    assert [*part] == ["a", "c"]


def test_tensors_of_the_same_form_stay_the_same_ones() -> None:
    center, gains, queue = torch.zeros(2), nn.Parameter(torch.zeros(3)), torch.zeros(3, 3)
    part = {"center": center, "gains": gains, "queue": queue[1], "step": torch.tensor(0)}
    saved = {
        "center": torch.ones(2),
        "gains": torch.ones(3),
        "queue": torch.ones(3),
        "step": torch.tensor(1.5),
    }
    restored(part, saved)
    assert part["center"] is center
    assert part["gains"] is gains
    assert (center.tolist(), gains.tolist(), queue.sum().item()) == ([1, 1], [1, 1, 1], 3)
    assert part["step"].item() == 1.5, "of another type: that is the saved one"


def test_lists_and_dicts_in_it_stay_the_same_ones() -> None:
    losses, counts, center = [1.0], defaultdict[str, int](int), torch.zeros(2)
    part: dict[str, Any] = {"losses": losses, "counts": counts, "both": (center, [])}
    restored(part, {"losses": [3.0, 4.0], "counts": {"x": 2}, "both": (torch.ones(2), [5])})
    assert part["losses"] is losses
    assert losses == [3.0, 4.0]
    assert part["counts"] is counts
    assert counts["new"] == 0
    assert part["both"][0] is center
    assert (center.tolist(), part["both"][1]) == ([1, 1], [5])


def test_what_was_one_object_and_has_become_two_is_two() -> None:
    zero, empty = torch.zeros(2), list[int]()
    part: dict[str, Any] = {"a": zero, "b": zero, "c": empty, "d": empty}
    restored(part, {"a": torch.ones(2), "b": torch.full((2,), 2.0), "c": [1], "d": [2]})
    assert (part["a"].tolist(), part["b"].tolist(), part["c"], part["d"]) == ([1, 1], [2, 2], [1], [2])


def test_the_model_s_weights_are_not_written_to() -> None:
    """The best weights begin as the weights themselves, and are a copy later. A buffer may be in both."""
    model = nn.BatchNorm1d(2)  # loaded
    part: dict[str, Any] = {"best": dict(model.state_dict()), "mean": model.running_mean}
    saved = {"best": {key: value + 3 for key, value in model.state_dict().items()}, "mean": torch.zeros(2)}
    restored(part, saved, model)
    assert (model.weight.tolist(), part["best"]["weight"].tolist()) == ([1, 1], [4, 4])
    assert part["mean"] is model.running_mean


def test_a_single_value_may_have_any_stride() -> None:
    part: dict[str, Any] = {"center": torch.zeros(1, 4)[:, 0]}
    restored(part, {"center": torch.ones(1)})
    assert part["center"].tolist() == [1]


def test_two_dicts_that_share_a_tensor_hold_what_each_held() -> None:
    zero = torch.zeros(2)
    one, other = {"a": zero}, {"a": zero}
    restore([(one, {"a": torch.ones(2)}), (other, {"a": torch.full((2,), 2.0)})], [one, other])
    assert (one["a"].tolist(), other["a"].tolist()) == ([1, 1], [2, 2])


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(1).expand(3), torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")],
    ids=["expanded", "sparse", "meta"],
)
def test_what_cannot_be_written_to_is_replaced(odd: torch.Tensor) -> None:
    saved = torch.arange(3.0)
    found = restored({"x": odd}, {"x": saved})["x"]
    assert odd.is_meta or found.tolist() == [0, 1, 2]
    nans = torch.tensor([torch.nan, -0.0])
    kept = torch.zeros(2)
    assert restored({"x": kept}, {"x": nans})["x"] is kept
