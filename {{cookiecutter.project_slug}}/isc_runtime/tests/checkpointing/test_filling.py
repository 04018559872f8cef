"""A part gets back what was saved, in memory of its own; how a step is computed is this run's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime.checkpointing.filling import _independent, exact_optimizers, fill, types_of_weights
from isc_runtime.tests.processes import differences

MOMENTS = ("exp_avg", "exp_avg_sq")


def stepped(fused: bool) -> torch.optim.AdamW:
    parameter = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5, fused=fused)
    parameter.grad = torch.ones(3)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("is_fused", [True, False])
def test_how_a_step_is_computed_is_not_the_checkpoint_s(is_fused: bool) -> None:
    """0.1.0 saved optimizers that were not fused: its checkpoints must not turn that off."""
    saved, now = stepped(not is_fused), stepped(is_fused)
    saved.param_groups[0]["lr"] = 0.3
    state = saved.state_dict()
    fill(now, state, is_mapped=True)
    (group,) = now.param_groups
    assert (group["fused"], group["lr"]) == (is_fused, 0.3)
    assert state["param_groups"][0]["fused"] is not is_fused  # what was loaded stays as it is
    now.step()
    assert now.state[group["params"][0]]["step"] == 2


@pytest.mark.parametrize(("device", "copied"), [("meta", {"step"}), ("cpu", {"step", *MOMENTS})])
def test_only_what_stays_on_the_cpu_is_copied(device: str, copied: set[str]) -> None:
    """What a GPU gets is read from the mapped file right into it; here the meta device is one."""
    state: dict[str, Any] = {"step": torch.tensor(3.0)} | {name: torch.ones(5) for name in MOMENTS}
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(5, device=device))])
    saved = {**optimizer.state_dict(), "state": {0: state}}
    independent = _independent(optimizer, saved)["state"][0]
    assert {name for name in state if independent[name] is not state[name]} == copied
    fill(optimizer, saved, is_mapped=True)
    (loaded,) = optimizer.state.values()
    assert all(loaded[name].device.type == device for name in MOMENTS)
    addresses = {value.data_ptr() for value in state.values()}
    assert not any(value.is_cpu and value.data_ptr() in addresses for value in loaded.values())


class Master(torch.optim.Optimizer):
    """Keeps of each weight, besides, values of types that are not the weight's, in whatever containers."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {
                "step": torch.tensor(3, dtype=torch.int64),
                "master": torch.full((3,), 1 / 3),
                "codes": torch.tensor([3, 255, 7], dtype=torch.uint8),
                "signs": torch.tensor([True, False, True]),
                "exact": torch.full((3,), 1 / 3, dtype=torch.float64),
                "own": torch.ones(3, dtype=parameter.dtype),
                "history": [torch.full((2,), 1 / 3), ({"last": torch.full((1,), 1 / 3)}, 5)],
                "kind": "blockwise",
                "raw": b"abc",
            }


class Holder:
    """As a user writes one for two optimizers: torch's `load_state_dict` is called within its own."""

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        self.members = list(members)

    def state_dict(self) -> dict[str, Any]:
        return {str(number): member.state_dict() for number, member in enumerate(self.members)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, member in enumerate(self.members):
            member.load_state_dict(state[str(number)])


def half() -> nn.Parameter:
    return nn.Parameter(torch.ones(3, dtype=torch.bfloat16))


@pytest.mark.parametrize("is_held", [False, True])
def test_an_optimizer_gets_back_the_types_that_it_had(is_held: bool) -> None:
    saved, now = Master([half()]), Master([half()])
    saved.step()
    expected = copy.deepcopy(saved.state_dict())
    part, source = (Holder(now), Holder(saved)) if is_held else (now, saved)
    with exact_optimizers({}):
        fill(part, source.state_dict(), is_mapped=True)
    assert differences(now.state_dict()["state"], expected["state"]) == []
    entry, before = now.state[now.param_groups[0]["params"][0]], next(iter(saved.state.values()))
    assert {key: value.dtype for key, value in entry.items() if isinstance(value, torch.Tensor)} == {
        key: value.dtype for key, value in before.items() if isinstance(value, torch.Tensor)
    }
    assert (entry["kind"], entry["raw"]) == ("blockwise", b"abc")
    assert entry["history"][1][0]["last"].dtype == torch.float32
    assert "load_state_dict" in vars(torch.optim.Optimizer)
    assert torch.optim.Optimizer.load_state_dict.__module__ == "torch.optim.optimizer", "it is torch's again"


class Around(torch.optim.Optimizer):
    """Wraps another one, has its very groups, and a state of its own."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.state[self.param_groups[0]["params"][0]]["slow"] = torch.ones(1)


@pytest.mark.parametrize("is_foreign", [False, True])
def test_who_holds_the_groups_of_an_optimizer_still_does(is_foreign: bool) -> None:
    """Torch makes new ones: a rate that a schedule sets in the old ones would reach nobody."""

    def made() -> Around:
        parameter = nn.Parameter(torch.ones(2))
        parameter.grad = torch.ones(2)
        return Around(torch.optim.SGD([parameter], lr=0.1, momentum=0.9))

    saved, now = made(), made()
    assert now.param_groups is not now.inner.param_groups
    (group,), groups, state = now.param_groups, now.param_groups, now.state
    saved.step()
    saved.param_groups[0]["lr"] = 0.3
    with exact_optimizers(None if is_foreign else {}):
        fill(now.inner, saved.inner.state_dict(), is_mapped=True)
        fill(now, saved.state_dict(), is_mapped=True)
    assert (now.param_groups, now.state) == (groups, state)
    assert now.param_groups is groups
    assert now.state is state
    assert now.param_groups[0] is now.inner.param_groups[0] is group
    assert group["lr"] == 0.3
    assert state[group["params"][0]]["slow"].item() == 1
    assert now.inner.state[group["params"][0]]["momentum_buffer"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.ASGD])
def test_scalars_of_torch_s_own_optimizers_are_not_rounded(kind: type[torch.optim.Optimizer]) -> None:
    """They count in float32, whatever the weights are."""
    optimizers = [kind([half()]) for _ in range(2)]  # type: ignore[call-arg]
    for _ in range(3):
        optimizers[0].param_groups[0]["params"][0].grad = torch.ones(3, dtype=torch.bfloat16)
        optimizers[0].step()
    with exact_optimizers({}):
        fill(optimizers[1], optimizers[0].state_dict(), is_mapped=True)
    states = [next(iter(optimizer.state.values())) for optimizer in optimizers]
    assert {name: value.dtype for name, value in states[0].items()} == {
        name: value.dtype for name, value in states[1].items()
    }
    assert differences(*states) == []


def test_what_had_the_type_of_the_weights_follows_them_to_another() -> None:
    """The model was trained in bf16, and is built in float32 now: torch's Adam needs moments of one type."""
    models = [nn.Linear(2, 1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    saved, now = (torch.optim.Adam(model.parameters()) for model in models)
    for model, optimizer in zip(models, (saved, now), strict=True):
        torch.autograd.backward(model(torch.ones(2, dtype=model.weight.dtype)))
        optimizer.step()
    types = types_of_weights({"model": models[1], "other": {}}, {"model": models[0].state_dict()})
    with exact_optimizers(types):
        fill(now, saved.state_dict(), is_mapped=True)
    assert now.state[models[1].weight]["exp_avg"].dtype == torch.float32
    now.step()


class Keeping(nn.Module):
    """Keeps what it is given, by an extra state and by a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = torch.zeros(2)
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("table", torch.zeros(2))

    def get_extra_state(self) -> Any:
        return {"extra": self.extra}

    def set_extra_state(self, state: Any) -> None:
        self.extra = state["extra"]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state, prefix, *arguments)
        self.table = state[f"{prefix}table"]


def test_nothing_that_a_module_keeps_is_the_file_s() -> None:
    module = nn.ModuleDict({"inner": Keeping(), "linear": nn.Linear(2, 2)})
    state = {key: copy.deepcopy(value) for key, value in module.state_dict().items()}
    state["inner._extra_state"]["extra"] = torch.ones(2)
    fill(module, state, is_mapped=True)
    inner: Any = module["inner"]
    assert inner.extra.tolist() == [1, 1]
    assert inner.extra is not state["inner._extra_state"]["extra"]
    assert inner.table.data_ptr() != state["inner.table"].data_ptr()
    independent = _independent(module, state)
    assert independent["linear.weight"] is state["linear.weight"], "torch copies it: not twice"


def test_a_schedule_with_functions_for_other_groups_is_refused() -> None:
    optimizer = torch.optim.SGD([{"params": [half()]}, {"params": [half()]}], 0.1)
    state = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0).state_dict()
    other = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([half()], 0.1), lambda _: 1.0)
    with pytest.raises(ValueError, match="it had functions for 2 groups of parameters, and has 1"):
        fill(other, state, is_mapped=True)
