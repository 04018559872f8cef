"""What is in a pickle is read from its instructions, and none of them is obeyed."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isc_runtime.checkpointing.on_disk.outline import TENSOR, Other, outline

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@given(state=st.dictionaries(st.text(max_size=5), PLAIN, max_size=5))
def test_plain_values_and_dicts_are_seen_as_they_are(protocol: int, state: dict[str, Any]) -> None:
    assert outline(io.BytesIO(pickle.dumps(state, protocol))) == state


def test_what_a_training_saves_is_seen() -> None:
    model = torch.nn.Linear(2, 1)
    state = {"model": model.state_dict(), "weights": model.weight, "lists": [1, {}], "set": {1}, "epoch": 3}
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    buffer.seek(0)
    seen = [outline(buffer) for _ in range(4)][-1]
    assert seen["model"] == {"weight": TENSOR, "bias": TENSOR}
    assert (seen["weights"], seen["epoch"]) == (TENSOR, 3)
    assert isinstance(seen["set"], Other)
    assert seen.keys() == state.keys()


class Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_nothing_is_obeyed(tmp_path: Path) -> None:
    state = {"model": Command(f"touch {tmp_path / 'ran'}"), "epoch": 1}
    assert outline(io.BytesIO(pickle.dumps(state)))["epoch"] == 1
    assert not (tmp_path / "ran").exists()


def test_a_key_that_takes_for_ever_to_hash_is_left_out() -> None:
    nested: Any = ()
    for _ in range(100):
        nested = (nested, nested)
    pairs = io.BytesIO()
    pickler = pickle.Pickler(pairs)
    pickler.dump([nested])
    bomb = b"}" + pairs.getvalue()[:-1] + b"K\x01s."
    assert outline(io.BytesIO(bomb)) == {}


@pytest.mark.parametrize("content", [b"", b".", b"\x80\x02", b"\x80\x02}q\x00s.", b"h\x05.", b"\xff", b"t."])
def test_what_is_no_pickle_says_so(content: bytes) -> None:
    with pytest.raises(ValueError, match="pickle"):
        outline(io.BytesIO(content))


@given(st.binary(max_size=60))
def test_whatever_comes_it_ends(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        outline(io.BytesIO(content))


def test_an_ordered_dict_is_one() -> None:
    assert outline(io.BytesIO(pickle.dumps(collections.OrderedDict(a=1)))) == {"a": 1}


def test_a_name_that_takes_for_ever_to_write_down_is_none() -> None:
    """A dict with the one before it in it twice, forty times."""
    content = b"\x80\x04}\x94"
    for number in range(40):
        before = b"h" + bytes([number])
        content += b"}\x94(\x8c\x01a" + before + b"\x8c\x01b" + before + b"u"
    with pytest.raises(ValueError, match="a name that is no text"):
        outline(io.BytesIO(content + b"\x8c\x01x\x93."))
