"""A part that has become another one, has come or has gone is named when it is saved; none is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.members import Members
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.sampler import ElasticSampler


class Training:
    """A model, and what `more` says of it."""

    left_out: tuple[str, ...] = ()

    def __init__(self, group: Group, path: Any, **more: Any) -> None:
        self.model, self.sampler = nn.Linear(2, 1), ElasticSampler(64, 4)
        self.more = {"optimizer": torch.optim.AdamW(self.model.parameters()), **more}
        self.checkpointer = Checkpointer(
            Run(LocalStore(path, group), group, StopRequest(), Scalars(None)), self, CheckpointOptions()
        )

    def state(self) -> State:
        return {"model": self.model, "sampler": self.sampler, **self.more}

    def save(self) -> None:
        self.sampler.advance()
        self.checkpointer.save()
        self.checkpointer.settle()


def replace(training: Training) -> None:
    training.more["optimizer"] = torch.optim.RAdam(training.model.parameters())


def come(training: Training) -> None:
    training.more["average"] = torch.optim.swa_utils.AveragedModel(training.model)


def go(training: Training) -> None:
    del training.more["teacher"]


CHANGES = {
    "replaced": (
        replace,
        "'optimizer' is a torch.optim.radam.RAdam now, and was a torch.optim.adamw.AdamW when the training",
        "put a torch.optim.radam.RAdam in the place of its 'optimizer'; the code builds a torch.optim.adamw",
        "build a RAdam from the start",
    ),
    "came": (
        come,
        "'average' is in state() only since the training has begun",
        "The training had added 'average', a torch.optim.swa_utils.AveragedModel, to state",
        "add 'average' to left_out",
    ),
    "gone": (
        go,
        "'teacher' is not in state() any more",
        "The training had taken 'teacher' out of state",
        "by a state() that does not return it",
    ),
}


@pytest.mark.parametrize(("change", "warning", "error", "hint"), CHANGES.values(), ids=CHANGES)
def test_a_part_that_changes_is_named_and_refused(
    group: Group,
    tmp_path: Any,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Training], None],
    warning: str,
    error: str,
    hint: str,
) -> None:
    training = Training(group, tmp_path, teacher=nn.Linear(1, 1))
    training.checkpointer.restore()
    training.save()
    assert "[STATE]" not in caplog.text
    change(training)
    training.save()
    training.save()
    assert caplog.text.count(warning) == 1, "once"
    again = Training(group, tmp_path, teacher=nn.Linear(1, 1))
    with pytest.raises(IscError, match=error) as raised:
        again.checkpointer.restore()
    assert raised.value.exit_code is ExitCode.CHECKPOINT
    assert hint in str(raised.value)
    changed = Training(group, tmp_path, teacher=nn.Linear(1, 1))  # as the error says
    change(changed)
    caplog.clear()
    assert changed.checkpointer.restore()
    assert caplog.text == ""
    changed.save()
    assert caplog.text == ""


def test_a_part_that_came_may_be_left_out(
    group: Group, tmp_path: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "left_out", ("average",))
    training = Training(group, tmp_path)
    training.checkpointer.restore()
    come(training)
    training.save()
    assert Training(group, tmp_path).checkpointer.restore()
    assert caplog.text == ""


def test_a_part_that_the_code_no_longer_has_is_named(
    group: Group, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(group, tmp_path, teacher=nn.Linear(1, 1))
    training.checkpointer.restore()
    training.save()
    assert Training(group, tmp_path).checkpointer.restore()
    assert (
        "[RESUME] The checkpoint's 'teacher' is no part of the training any more: it is left" in caplog.text
    )


def test_a_module_that_changes_its_own_class_is_the_same_one() -> None:
    """As a lazy one does with its first batch, and one that is parametrized."""
    part = nn.Linear(1, 1)
    members = Members({"part": part}, ())
    torch.nn.utils.parametrize.register_parametrization(part, "weight", nn.Identity())
    assert type(part) is not nn.Linear
    assert members.changes({"part": part}) == {}
