"""What a training consists of: what cannot come back is refused, what is forgotten is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.parts import State, left_out, parts_of, warn_of_what_is_left_out
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.sampler import ElasticSampler


class Forgetful:
    """A training that saves its model alone, and holds more."""

    left_out: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.replica = nn.ModuleDict({"module": self.model})
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.sampler = ElasticSampler(4, 2)
        self.more: dict[str, Any] = {}

    def state(self) -> State:
        return {"model": self.model, "sampler": self.sampler, **self.more}


def test_what_has_a_state_and_is_not_saved_is_found() -> None:
    """Not another view of the model, nor what is switched off."""
    training = Forgetful()
    assert left_out(training) == ["average", "optimizer"]
    training.left_out = ("average",)
    training.more = {"optimizer": training.optimizer}
    assert left_out(training) == []


def test_what_lists_and_dicts_hold_is_found_too() -> None:
    training = Forgetful()
    training.left_out = ("average", "optimizer")
    models = {"critic": nn.Linear(1, 1), "model": training.model}
    training.__dict__ |= {"optimizers": [training.optimizer, training.scaler], "models": models}
    assert left_out(training) == ["optimizers[0]", "models['critic']"]
    training.more = {"optimizer": training.optimizer, "critic": models["critic"]}
    assert left_out(training) == []


def test_keys_of_any_kind_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """An optimizer for each parameter, as those have who step in a hook; a name with points in it."""
    training = Forgetful()
    training.left_out = ("average", "optimizer")
    parameters = list(training.model.parameters())
    members = {one: torch.optim.Adam([one]) for one in parameters}
    training.__dict__ |= {"members": members, "named": {"0.weight": torch.optim.Adam(parameters)}}
    warn_of_what_is_left_out(training)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "one for all that a dict holds"
    assert "Forgetful.members[Parameter 0] has a state_dict and is not saved" in said[0]
    assert "Forgetful.named['0.weight'] has a state_dict and is not saved" in said[1]
    assert "Add 'named' to what state() returns, by an object with state_dict" in said[1]


def test_what_an_optimizer_wraps_and_forgets_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Wrapping(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, 0.1)
            self.inner = torch.optim.AdamW(self.param_groups)

    training = Forgetful()
    training.left_out = ("average", "optimizer")
    training.more = {"wrapping": Wrapping(training.model.parameters())}
    warn_of_what_is_left_out(training)
    assert "[STATE] 'wrapping' holds inner and leaves it out of its state_dict" in caplog.text
    assert "or 'wrapping.inner' to Forgetful.left_out" in caplog.text
    assert "Forgetful.wrapping" not in caplog.text
    caplog.clear()
    training.left_out += ("wrapping.inner",)
    warn_of_what_is_left_out(training)
    assert caplog.text == ""


def test_a_schedule_of_ones_own_that_cannot_be_saved_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Schedule:
        def step(self) -> None: ...

    training = Forgetful()
    training.left_out = ("average", "optimizer")
    training.__dict__["schedule"] = Schedule()
    warn_of_what_is_left_out(training)
    assert "[STATE] Forgetful.schedule has a step() and no state_dict" in caplog.text
    caplog.clear()
    training.left_out += ("schedule",)
    warn_of_what_is_left_out(training)
    assert caplog.text == ""


def test_a_plain_value_would_not_come_back() -> None:
    training = Forgetful()
    training.more = {"best": 0.5}
    with pytest.raises(IscError, match=r"A float is part of the state.*: best\. Keep it in a dict") as raised:
        parts_of(training)
    assert raised.value.exit_code is ExitCode.USAGE


def test_a_dict_made_for_each_save_would_not_come_back() -> None:
    """A resume fills what the first call has returned, and nobody looks at that."""

    class Counting(Forgetful):
        def state(self) -> State:
            return {**super().state(), "counts": {"seen": 3}}

    with pytest.raises(IscError, match=r"A dict is made anew by each .*: counts\. Make it once") as raised:
        parts_of(Counting())
    assert raised.value.exit_code is ExitCode.USAGE


def test_without_a_position_there_is_no_resume() -> None:
    training = Forgetful()
    training.more = {"sampler": {}}
    with pytest.raises(IscError, match=r"does not say how far the training is: sampler\. Add the"):
        parts_of(training)
