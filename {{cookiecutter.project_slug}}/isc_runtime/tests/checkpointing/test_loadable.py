"""What could be saved and not be loaded again is refused, with what to save instead."""

from __future__ import annotations

import io
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isc_runtime.checkpointing.saving.loadable import check_state
from isc_runtime.checkpointing.saving.snapshot import Snapshot
from isc_runtime.errors import ExitCode, IscError


class Subclass(torch.Tensor):
    """As libraries make them."""


REFUSED: dict[str, Any] = {
    "deque": (deque([1]), r"A collections\.deque .*: a\.b\. .*keep it as a number"),
    "array": (np.ones(3), r"A numpy\.ndarray .*: a\.b\."),
    "set": ({1}, r"A builtins\.set .*: a\.b\."),
    "path": (Path("x"), r"PosixPath .*: a\.b\."),
    "numpy generator": (np.random.default_rng(), r"Generator .*: a\.b\."),
    "key of NumPy": ({np.int64(3): 1}, r"the key np\.int64\(3\), a int64, .*: a\.b\. .*keys to str or int"),
    "key that is a path": ({Path("x"): 1}, r"the key PosixPath.*: a\.b\."),
    "key that holds a path": ({(1, Path("x")): 1}, r"the key \(1, PosixPath\('x'\)\), a tuple"),
    "date of NumPy": (np.datetime64("2026-11-30"), r"A numpy\.datetime64 .*: a\.b\."),
    "long double": (np.longdouble(1), r"A numpy\.longdouble .*: a\.b\."),
    "subclass": (torch.ones(2).as_subclass(Subclass), r"A Subclass, a subclass of Tensor, .*: a\.b\."),
    "expanded": (torch.ones(1).expand(3), r"An expanded tensor.*: a\.b\. Save a clone"),
    "sparse": (torch.eye(2).to_sparse(), r"sparse or nested .*: a\.b\."),
    "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"nested .*: a\.b\."),
    "meta": (torch.ones(2, device="meta"), r"the meta device.*: a\.b\."),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_come_back_is_refused_by_its_path(kind: str) -> None:
    value, message = REFUSED[kind]
    with pytest.raises(IscError, match=message) as raised:
        check_state({"a": {"b": value}})
    assert raised.value.exit_code is ExitCode.SAVE


def test_what_is_accepted_comes_back_equal() -> None:
    state = {
        "plain": [None, True, 1, 2.5, 1j, "text", b"bytes", (1, [2])],
        1: {"keys": 0, (1, "a"): 1, None: 2},
        "of torch": [torch.bfloat16, torch.device("cpu"), torch.Size([2, 3]), torch.strided],
        "ordered": OrderedDict(a=torch.ones(2)),
        "counter": Counter("aab"),
        "default": defaultdict(list, {"x": [1]}),
        "numpy scalar": np.float64(0.5),
        "slice": torch.arange(6).reshape(2, 3).t()[1:],
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "empty": {},
    }
    snapshot = Snapshot()
    copy = snapshot.take(state)
    snapshot.complete()
    file = io.BytesIO()
    torch.save(copy, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["plain"] == state["plain"]
    assert loaded["counter"] == {"a": 2, "b": 1}
    assert loaded["default"] == {"x": [1]}
    assert loaded["numpy scalar"] == 0.5
    assert torch.equal(loaded["slice"], state["slice"])
    assert (loaded[1], loaded["empty"]) == (state[1], {})
    assert loaded["of torch"] == state["of torch"]
    assert copy["empty"] is not state["empty"]  # what the training puts in later is not in the snapshot
