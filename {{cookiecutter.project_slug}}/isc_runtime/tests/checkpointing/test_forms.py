"""What a training has changed in the form of its parts comes back, though they are built anew."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import IscError
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.sampler import ElasticSampler
from isc_runtime.tests.processes import differences


class Attention(nn.Module):
    """Makes its causal mask when it sees how long a text is."""

    later: Tensor | None
    growing: Tensor
    filled: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 4)
        self.register_buffer("later", None)
        self.register_buffer("growing", torch.zeros(1, 1))
        self.register_buffer("filled", torch.zeros(3, 3))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, text: Tensor) -> Tensor:
        length = len(text)
        mask = torch.full((length, length), -torch.inf).triu(1)
        self.later, self.growing = mask, mask
        self.filled.copy_(torch.full((3, 3), -torch.inf).triu(1))
        self.count = self.count + 0.5  # no whole number from now on
        if not hasattr(self, "anew"):
            self.register_buffer("anew", mask)
        scores: Tensor = self.scores(text)
        return (scores @ scores.T + mask).softmax(dim=1) @ text


class Training:
    """A model whose backbone is frozen, and what belongs to it."""

    def __init__(self, store: Store, group: Group) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict({"backbone": nn.Linear(4, 4), "attention": Attention()})
        self.model["backbone"].requires_grad_(False)
        trained = self.model["attention"].parameters()
        self.optimizer = torch.optim.AdamW(trained, lr=0.1)
        self.sampler = ElasticSampler(64, 4)
        run = Run(store, group, StopRequest(), Scalars(None))
        self.checkpointer = Checkpointer(run, self, CheckpointOptions())

    def state(self) -> State:
        return {"model": self.model, "optimizer": self.optimizer, "sampler": self.sampler}

    def step(self) -> None:
        loss: Tensor = self.model["attention"](self.model["backbone"](torch.ones(3, 4))).square().sum()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sampler.advance()

    def thaw(self) -> None:
        self.model["backbone"].requires_grad_(True)
        self.optimizer.add_param_group({"params": list(self.model["backbone"].parameters()), "lr": 0.01})

    def everything(self) -> dict[str, Any]:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**state, "trained": {name: p.requires_grad for name, p in self.model.named_parameters()}}


def resumed(
    store: Store, group: Group, before: Training, again: Callable[[Store, Group], Training]
) -> Training:
    before.checkpointer.save()
    before.checkpointer.settle()
    after = again(store, group)
    assert after.checkpointer.restore()
    return after


def test_what_a_forward_pass_has_made_comes_back(store: Store, group: Group) -> None:
    """Masks of -inf, none of which was there at the start; over two resumes."""
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    for _ in range(2):
        after = resumed(store, group, training, Training)
        assert differences(training.everything(), after.everything()) == []
        training.step()
        after.step()
        assert differences(training.everything(), after.everything()) == []
        training = after
    assert training.model["attention"].later.shape == (3, 3)


def test_what_was_thawed_stays_so_with_its_group(store: Store, group: Group) -> None:
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    training.thaw()
    training.step()
    for _ in range(2):
        after = resumed(store, group, training, Training)
        assert after.model["backbone"].weight.requires_grad
        training.step()
        after.step()
        assert differences(training.everything(), after.everything()) == []
        assert after.optimizer.param_groups[1]["params"][0] is after.model["backbone"].weight
        training = after


def other_layers(training: Training) -> None:
    """As many as before, but others."""
    for part, is_trained in (("backbone", True), ("attention", False)):
        training.model[part].requires_grad_(is_trained)
    training.optimizer.param_groups[0]["params"] = list(training.model["backbone"].parameters())
    training.optimizer.state.clear()


def all_layers(training: Training) -> None:
    training.model.requires_grad_(True)
    training.optimizer.param_groups[0]["params"] = list(training.model.parameters())


@pytest.mark.parametrize("change", [other_layers, all_layers])
def test_an_optimizer_goes_on_with_the_parameters_that_it_had(
    store: Store, group: Group, change: Callable[[Training], None]
) -> None:
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    change(training)
    training.step()
    for _ in range(2):
        after = resumed(store, group, training, Training)
        training.step()
        after.step()
        assert differences(training.everything(), after.everything()) == []
        training = after


class Best(Training):
    """Keeps the best weights, which begin as the weights themselves, and a buffer that stays the model's."""

    kept: dict[str, Any] | None = None

    def state(self) -> State:
        if self.kept is None:
            count = self.model.get_buffer("attention.filled")
            self.kept = {"best": dict(self.model.state_dict()), "count": count}
        return {**super().state(), "kept": self.kept}


def test_what_was_a_copy_is_one_and_what_was_the_model_s_own_is_that(store: Store, group: Group) -> None:
    training = Best(store, group)
    training.checkpointer.restore()
    training.step()
    assert training.kept is not None
    training.kept["best"] = {key: value.clone() for key, value in training.model.state_dict().items()}
    after = resumed(store, group, training, Best)
    assert isinstance(after, Best)
    assert after.kept is not None
    training.step()
    after.step()
    assert differences(training.kept, after.kept) == []
    assert after.kept["count"] is after.model["attention"].filled


def test_a_buffer_that_is_no_more_is_none_after_a_resume(store: Store, group: Group) -> None:
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    training.model["attention"].filled = training.model["attention"].later
    training.model["attention"].register_buffer("growing", None)
    after = resumed(store, group, training, Training)
    assert after.model["attention"].growing is None
    assert differences(training.everything(), after.everything()) == []


class Sharing(Training):
    """Two modules have one queue, which grows; one of them reads what the other one writes."""

    def __init__(self, store: Store, group: Group) -> None:
        super().__init__(store, group)
        queue = torch.zeros(1, 4)
        for part in self.model.values():
            part.register_buffer("queue", queue)


def test_a_buffer_of_two_modules_that_has_grown_is_still_one(store: Store, group: Group) -> None:
    training = Sharing(store, group)
    training.checkpointer.restore()
    training.step()
    training.model["backbone"].get_buffer("queue").resize_(3, 4).fill_(2.0)
    after = resumed(store, group, training, Sharing)
    assert differences(training.everything(), after.everything()) == []
    assert after.model["backbone"].queue is after.model["attention"].queue
    assert after.model["backbone"].queue.shape == (3, 4)


def prune_layer(training: Training) -> None:
    prune.l1_unstructured(training.model["attention"].scores, "weight", 0.5)  # type: ignore[no-untyped-call]


def widen(training: Training) -> None:
    training.model.get_submodule("attention.scores").weight = nn.Parameter(torch.ones(8, 4))


def drop(training: Training) -> None:
    del training.model["backbone"]


@pytest.mark.parametrize(
    ("change", "name"),
    [(prune_layer, "attention.scores.weight_orig"), (widen, "attention.scores.weight"), (drop, "backbone")],
)
def test_other_parameters_are_named_at_the_save_and_at_the_resume(
    store: Store,
    group: Group,
    change: Callable[[Training], None],
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    change(training)
    with pytest.raises(IscError, match="'model' does not fit") as error:
        resumed(store, group, training, Training)
    (said,) = [record.message for record in caplog.records if "other parameters" in record.message]
    assert said.startswith("[STATE] 'model' has other parameters than it was built with (")
    assert name in said
    assert name in error.value.hint
    assert "build it so that it has them" in error.value.hint


class Smaller(Training):
    """Another model, without what the checkpoint knows of."""

    def __init__(self, store: Store, group: Group) -> None:
        super().__init__(store, group)
        self.model = nn.ModuleDict({"backbone": nn.Linear(4, 4)})
        self.optimizer = torch.optim.AdamW(self.model.parameters())


def test_another_model_is_refused_as_before(store: Store, group: Group) -> None:
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    training.thaw()
    with pytest.raises(IscError, match="The checkpoint is of another training: its 'model' does not fit"):
        resumed(store, group, training, Smaller)


def test_nothing_is_noted_of_a_form_that_stays(store: Store, group: Group) -> None:
    training = Training(store, group)
    training.checkpointer.restore()
    training.checkpointer.save()
    training.checkpointer.settle()
    state = torch.load(store.entries()[-1].payload, weights_only=True)
    assert "forms" not in state["asked"]


class Scheduled(Training):
    """Each group of its optimizer has a function of the step; and a dict from which things are taken."""

    def __init__(self, store: Store, group: Group) -> None:
        super().__init__(store, group)
        functions = [lambda step: 0.9**step, lambda step: 0.8**step]
        self.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.1})
        inner = torch.optim.lr_scheduler.LambdaLR(self.optimizer, functions)
        self.inner = inner
        self.scheduler = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [inner], milestones=[])
        self.plan = OrderedDict({"warm up": 1.0, "cool down": 0.5})

    def state(self) -> State:
        own = ("scheduler", "plan")
        return super().state() | {name: getattr(self, name) for name in own if hasattr(self, name)}

    def thaw(self) -> None:
        super().thaw()
        self.optimizer.param_groups[-1]["initial_lr"] = 0.01
        self.inner.base_lrs.append(0.01)
        self.inner.lr_lambdas.append(self.inner.lr_lambdas[1])
        self.plan.pop("warm up")

    def step(self) -> None:
        super().step()
        self.scheduler.step()


def test_a_schedule_knows_its_functions_and_a_dict_what_was_taken_from_it(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training: Any = Scheduled(store, group)
    training.checkpointer.restore()
    training.thaw()
    training.step()
    for _ in range(2):
        after: Any = resumed(store, group, training, Scheduled)
        for one in (training, after):
            one.step()
        assert [one["lr"] for one in after.optimizer.param_groups] == [
            one["lr"] for one in training.optimizer.param_groups
        ]
        assert len(after.inner.lr_lambdas) == 3
        assert list(after.plan.items()) == [("cool down", 0.5)]
        training = after
    assert "function" not in caplog.text


def test_a_function_that_a_resume_cannot_know_is_named(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training: Any = Scheduled(store, group)
    training.checkpointer.restore()
    training.inner.lr_lambdas[0] = lambda step: 0.1**step
    training.step()
    resumed(store, group, training, Scheduled)
    said = "'scheduler' computed rates by another function than those that it is built with"
    assert (caplog.text.count(f"[STATE] {said}"), caplog.text.count(f"[RESUME] {said}")) == (1, 1)


class Converted(Training):
    """Goes on in another precision from a point on."""

    def step(self) -> None:
        model: Any = self.model
        hidden = model["backbone"](torch.ones(3, 4, dtype=model["backbone"].weight.dtype))
        loss: Tensor = model["attention"].scores(hidden).sum()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.sampler.advance()


def test_weights_that_were_converted_in_training_are_of_that_type_again(store: Store, group: Group) -> None:
    training: Training = Converted(store, group)
    training.checkpointer.restore()
    training.step()
    training.model.bfloat16()
    for state in training.optimizer.state.values():  # as torch's `load_state_dict` would make them
        state.update({key: state[key].bfloat16() for key in ("exp_avg", "exp_avg_sq")})
    for _ in range(2):
        training.step()
        after = resumed(store, group, training, Converted)
        for one in (training, after):
            one.step()
        assert {one.dtype for one in after.model.parameters()} == {torch.bfloat16}
        assert differences(training.everything(), after.everything()) == []
        training = after
