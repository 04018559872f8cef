"""Optimizers that wrap others: what of these is not saved is named, and what is shared stays so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from isc_runtime.checkpointing.held import forgotten_by_parts, steps_without_state
from isc_runtime.checkpointing.parts import left_out


class Sam(Optimizer):
    """As https://github.com/davda54/sam has it: the inner optimizer's state is nobody's."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, {"rho": 0.05, **settings})
        self.base_optimizer = torch.optim.SGD(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups


class Asking(Sam):
    """Saves it by asking it."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "base": self.base_optimizer.state_dict()}


class Looking(Sam):
    """Saves it by looking into it."""

    def state_dict(self) -> dict[str, Any]:
        moments = [dict(self.base_optimizer.state.get(p, {})) for p in self.param_groups[0]["params"]]
        return {**super().state_dict(), "moments": moments}


class Sharing(Sam):
    """Has the very same state."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.state = self.base_optimizer.state


class Several:
    """No optimizer itself, and holds some in a list."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        self.optimizers = [torch.optim.SGD(parameters, **settings)]

    def state_dict(self) -> dict[str, Any]:
        return {}


class Failing(Sam):
    """Expects of its inner optimizer what is not there before the first step."""

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.base_optimizer.state[self.param_groups[0]["params"][0]]["momentum_buffer"]}


def forgotten(kind: Callable[..., Any], is_begun: bool, **settings: Any) -> list[tuple[str, str]]:
    model = nn.Linear(2, 1)
    part = kind(model.parameters(), **({"lr": 0.1, "momentum": 0.9} | settings))
    if is_begun:
        model(torch.ones(2)).sum().backward()
        getattr(part, "base_optimizer", part).step() if isinstance(part, Sam) else part.optimizers[0].step()
    before = copy.deepcopy(part.state_dict()) if not isinstance(part, Failing) else None
    found = [(name, attribute) for name, attribute, _ in forgotten_by_parts({"model": model, "mine": part})]
    assert before is None or repr(part.state_dict()) == repr(before), "it was tried out, and is as before"
    assert not isinstance(part, Sam) or "state_dict" not in vars(part.base_optimizer)
    return found


@pytest.mark.parametrize("is_begun", [False, True])
def test_what_is_held_and_not_saved_is_found(is_begun: bool) -> None:
    assert forgotten(Sam, is_begun) == [("mine", "base_optimizer")]
    assert forgotten(Several, is_begun) == [("mine", "optimizers[0]")]
    assert forgotten(Asking, is_begun) == []
    assert forgotten(Looking, is_begun) == []
    assert forgotten(Sharing, is_begun) == []
    assert forgotten(Sam, is_begun, momentum=0.0) == [], "it has no state"


def test_whoever_cannot_be_asked_is_believed() -> None:
    assert forgotten(Failing, is_begun=False) == []


def test_what_is_a_part_itself_is_no_finding() -> None:
    sam = Sam(nn.Linear(2, 1).parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(sam.base_optimizer, 1)
    assert list(forgotten_by_parts({"sam": sam, "inner": sam.base_optimizer, "schedule": schedule})) == []


class Settings(dict[str, Any]):
    """Its keys are attributes, and one that is not there is an error of dicts."""

    __getattr__ = dict.__getitem__


class NotYet:
    """Has no state before it has run."""

    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("it has not run yet")


class Broken:
    @property
    def state_dict(self) -> Any:
        raise RuntimeError("never")


@pytest.mark.parametrize("kind", [Settings, Broken, NotYet])
def test_what_cannot_be_asked_stops_no_start(kind: Callable[[], Any]) -> None:
    sam = Sam(nn.Linear(2, 1).parameters(), lr=0.1)
    sam.settings = kind()  # type: ignore[attr-defined]
    found = [name for _, name, _ in forgotten_by_parts({"sam": sam})]
    assert found == (["settings"] if kind is NotYet else [])
    training: Any = SimpleNamespace(settings=kind(), state=lambda: {"sam": sam}, left_out=("sam.settings",))
    assert left_out(training) == (["settings"] if kind is NotYet else [])
    assert list(steps_without_state(training)) == []
