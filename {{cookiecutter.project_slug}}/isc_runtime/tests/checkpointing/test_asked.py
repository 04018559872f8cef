"""What a command line says explicitly wins over the checkpoint; what it does not say changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from isc_runtime import options
from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.logs import Scalars
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.sampler import ElasticSampler


def arguments(*command_line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--texts", type=Path, default=Path("texts"))  # no plain value
    return options.parse(parser, list(command_line))


def checkpointer_of(training: Any, directory: Path, group: Group) -> Checkpointer:
    run = Run(LocalStore(directory, group), group, StopRequest(), Scalars(None))
    return Checkpointer(run, training, CheckpointOptions())


class Asking:
    """A training with a decaying learning rate, made of a command line."""

    def __init__(
        self, directory: Path, group: Group, *command_line: str, kind: type = torch.optim.AdamW
    ) -> None:
        self.arguments = arguments(*command_line)
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        settings = {"lr": self.arguments.learning_rate, "weight_decay": self.arguments.weight_decay}
        self.optimizer = kind(self.model.parameters(), **settings)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.5**step)
        self.sampler = ElasticSampler(100, 1)
        self.checkpointer = checkpointer_of(self, directory, group)

    def state(self) -> State:
        return {name: getattr(self, name) for name in ("model", "optimizer", "scheduler", "sampler")}

    def step(self) -> None:
        torch.autograd.backward(self.model(torch.ones(2)))
        self.optimizer.step()
        self.scheduler.step()
        self.sampler.advance()

    @property
    def setting(self) -> tuple[float, float]:
        """Learning rate and weight decay, of the next step."""
        group = self.optimizer.param_groups[0]
        return group["lr"], group["weight_decay"]


def resumed(
    directory: Path, group: Group, *command_line: str, kind: type = torch.optim.AdamW
) -> tuple[float, float]:
    """Goes on with this command for a step, saves, and says with which settings it began."""
    training = Asking(directory, group, *command_line, kind=kind)
    with training.checkpointer as checkpointer:
        assert checkpointer.restore()
        setting = training.setting
        training.step()
        assert training.setting[0] == pytest.approx(setting[0] / 2)  # the schedule goes on from there
        checkpointer.save()
    return setting


def test_what_is_asked_for_explicitly_wins_once(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = Asking(tmp_path, group, "--learning-rate", "0.2")
    with first.checkpointer as checkpointer:
        checkpointer.restore()
        first.step()
        checkpointer.save()
    assert resumed(tmp_path, group, "--learning-rate", "0.2") == pytest.approx((0.1, 0.5))
    assert "[RESUME]" not in caplog.text
    assert resumed(tmp_path, group) == pytest.approx((0.05, 0.5)), "a default is no wish"
    assert "--learning-rate 0.1, not 0.2" in caplog.text
    assert "(taken over)" not in caplog.text
    caplog.clear()
    wish = ("--learning-rate", "0.8", "--weight-decay", "0.1", "--epochs", "9", "--workers", "2")
    assert resumed(tmp_path, group, *wish) == pytest.approx((0.1, 0.1))
    expected = (
        "--epochs 9, not 3; --learning-rate 0.8, not 0.2 (taken over); --weight-decay 0.1, not 0.5 (taken"
    )
    assert expected in caplog.text
    caplog.clear()
    assert resumed(tmp_path, group, *wish) == pytest.approx((0.05, 0.1)), "the same command changes nothing"
    assert "[RESUME]" not in caplog.text


@pytest.mark.parametrize(("before", "now"), [("0.0", "0.2"), ("0.2", "0.0")])
def test_a_rate_of_nothing_has_no_ratio(tmp_path: Path, group: Group, before: str, now: str) -> None:
    first = Asking(tmp_path, group, "--learning-rate", before)
    with first.checkpointer as checkpointer:
        first.step()
        checkpointer.save()
    second = Asking(tmp_path, group, "--learning-rate", now)
    assert second.checkpointer.restore()
    second.step()
    assert second.setting[0] == pytest.approx(float(now) * 0.5**2)


def test_a_schedule_goes_on_from_the_optimizer_s_own_rate(tmp_path: Path, group: Group) -> None:
    """Which need not be as many times another as the option is."""

    def begin(rate: str) -> Asking:
        training = Asking(tmp_path, group, "--learning-rate", rate)
        own = 1.0 + training.arguments.learning_rate
        training.optimizer.param_groups[0] |= {"lr": own, "initial_lr": own}
        training.scheduler = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda step: 0.5**step)
        return training

    first = begin("1.0")
    with first.checkpointer as checkpointer:
        first.step()
        checkpointer.save()
    second = begin("3.0")
    assert second.checkpointer.restore()
    assert second.setting[0] == pytest.approx(4.0 / 2)


def test_another_kind_of_optimizer_is_named(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = Asking(tmp_path, group)
    with first.checkpointer as checkpointer:
        first.step()
        checkpointer.save()
    resumed(tmp_path, group, kind=torch.optim.Adam)
    assert "optimizer is a torch.optim.adam.Adam, not a torch.optim.adamw.AdamW" in caplog.text


class Reducing(Asking):
    """The rate falls when nothing gets better; a second optimizer has one of its own, in a cycle."""

    def __init__(self, directory: Path, group: Group, *command_line: str) -> None:
        super().__init__(directory, group, *command_line)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=0, factor=0.5)
        self.other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=self.arguments.learning_rate / 2)
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(
            self.other, max_lr=self.arguments.learning_rate, total_steps=10
        )
        self.optimizer.param_groups[0].pop("initial_lr")  # of the schedule that this one has not

    def state(self) -> State:
        names = ("model", "optimizer", "sampler", "plateau", "other", "cycle")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def step(self) -> None:
        self.optimizer.step()
        self.sampler.advance()
        self.plateau.step(1.0)
        self.other.step()
        self.cycle.step()


def test_a_learning_rate_wins_whatever_the_schedule_has_made_of_it(tmp_path: Path, group: Group) -> None:
    first = Reducing(tmp_path, group, "--learning-rate", "0.2")
    with first.checkpointer as checkpointer:
        for _ in range(3):
            first.step()
        checkpointer.save()
    assert first.setting[0] == pytest.approx(2 * 0.2 / 2**3), "twice the first one's factor"
    cycled = first.other.param_groups[0]["lr"]
    again = Reducing(tmp_path, group, "--learning-rate", "0.4")
    with again.checkpointer as checkpointer:
        assert checkpointer.restore()
    assert again.setting[0] == pytest.approx(2 * first.setting[0])
    assert again.other.param_groups[0]["lr"] == pytest.approx(2 * cycled)
    for training in (first, again):
        training.cycle.step()
    rates = [training.other.param_groups[0]["lr"] for training in (first, again)]
    assert rates[1] == pytest.approx(2 * rates[0]), "the rest of the cycle, too"


class Adversaries(Asking):
    """The second optimizer has a rate that no option says, and the first one's no schedule."""

    def __init__(self, directory: Path, group: Group, *command_line: str, other: float = 0.3) -> None:
        super().__init__(directory, group, *command_line)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.arguments.learning_rate)
        self.other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=other)
        self.checkpointer = checkpointer_of(self, directory, group)

    def state(self) -> State:
        names = ("model", "optimizer", "other", "sampler")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    @property
    def rates(self) -> tuple[float, float]:
        return self.optimizer.param_groups[0]["lr"], self.other.param_groups[0]["lr"]


def test_a_rate_that_the_option_does_not_say_stays(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was asked for in between, and whatever the training has made of it."""

    def begun(*command_line: str, other: float = 0.3) -> tuple[float, float]:
        training = Adversaries(tmp_path, group, *command_line, other=other)
        with training.checkpointer as checkpointer:
            checkpointer.restore()
            rates = training.rates
            training.optimizer.param_groups[0]["lr"] *= 0.5  # nothing got better
            training.sampler.advance()
            checkpointer.save()
        return rates

    assert begun("--learning-rate", "0.8") == (0.8, 0.3)
    assert begun("--learning-rate", "0.8") == pytest.approx((0.4, 0.3))
    assert begun("--learning-rate", "1.6") == pytest.approx((0.4, 0.3))
    assert begun() == pytest.approx((0.2, 0.3))
    assert begun("--learning-rate", "0.8") == pytest.approx((0.05, 0.3)), "half of the 1.6 asked for before"
    assert "settings hold" not in caplog.text
    assert begun(other=0.6)[1] == 0.3
    assert "settings hold (other 0 lr: 0.3, not 0.6)" in caplog.text


class Average:
    """Of whatever: an object of the user's."""

    def __init__(self, decay: float, steps: int) -> None:
        self._decay, self.steps, self.seen = decay, steps, 0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Scheduled(Asking):
    """What is made of schedules, and of an object of the user's, depends on an option."""

    def __init__(self, directory: Path, group: Group, *command_line: str) -> None:
        super().__init__(directory, group, *command_line)
        schedulers, epochs = torch.optim.lr_scheduler, self.arguments.epochs
        first = schedulers.CosineAnnealingLR(self.optimizer, T_max=epochs)
        then = schedulers.MultiStepLR(self.optimizer, [epochs, 2 * epochs])
        self.scheduler = schedulers.SequentialLR(self.optimizer, [first, then], [epochs])  # type: ignore[assignment]
        self.average = Average(1 / epochs, 10)
        self.checkpointer = checkpointer_of(self, directory, group)

    def state(self) -> State:
        return super().state() | ({"average": self.average} if hasattr(self, "average") else {})


def test_what_a_schedule_was_made_with_is_named_if_the_checkpoint_replaces_it(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """More epochs on the command line, say: a cosine that ends with the old ones would rise again."""
    first = Scheduled(tmp_path, group)
    with first.checkpointer as checkpointer:
        first.step()
        first.average.seen += 1
        checkpointer.save()
    assert Scheduled(tmp_path, group).checkpointer.restore()
    assert "[RESUME]" not in caplog.text
    assert Scheduled(tmp_path, group, "--epochs", "6").checkpointer.restore()
    held = (
        "(average _decay: 0.3333333333333333, not 0.16666666666666666; scheduler 1 T_max: 3, not 6; "
        "scheduler 2 milestones: Counter({3: 1, 6: 1}), not Counter({6: 1, 12: 1}); scheduler _milestones: "
        "[3], not [6])"
    )
    assert f"The checkpoint's settings hold {held}" in caplog.text


class Counting(torch.optim.SGD):
    """Counts its steps as LAMB and others do: in the settings of its parameters."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.param_groups[0] |= {"step": 0, "dampening_so_far": 1.0}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.param_groups[0]["step"] += 1


def test_settings_that_the_training_has_changed_are_not_overruled(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = Asking(tmp_path, group, kind=Counting)
    with first.checkpointer as checkpointer:
        first.step()
        checkpointer.save()
    for _ in range(2):
        resumed(tmp_path, group, kind=Counting)
    assert "[RESUME]" not in caplog.text
    changed = Asking(tmp_path, group, kind=Counting)
    changed.optimizer.param_groups[0]["dampening_so_far"] = 2.0  # in the code
    run = Run(LocalStore(tmp_path, group), group, StopRequest(), Scalars(None))
    Checkpointer(run, changed, CheckpointOptions()).restore()
    assert "settings hold (optimizer 0 dampening_so_far: 1.0, not 2.0)" in caplog.text
    assert changed.optimizer.param_groups[0]["step"] == 3


class Cycling(Asking):
    """Its schedule changes rate and momentum at each step."""

    def __init__(self, directory: Path, group: Group, *command_line: str) -> None:
        super().__init__(directory, group, *command_line, kind=torch.optim.SGD)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        schedulers = torch.optim.lr_scheduler
        self.scheduler = schedulers.OneCycleLR(self.optimizer, 0.1, total_steps=9)  # type: ignore[assignment]


def test_what_a_schedule_has_changed_is_no_setting(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    first = Cycling(tmp_path, group)
    with first.checkpointer as checkpointer:
        for _ in range(3):
            first.step()
        checkpointer.save()
    again = Cycling(tmp_path, group)
    assert again.checkpointer.restore()
    assert again.optimizer.param_groups[0]["momentum"] == first.optimizer.param_groups[0]["momentum"] != 0.9
    assert "[RESUME]" not in caplog.text


def test_a_checkpoint_that_says_nothing_of_settings_is_compared_with_what_it_holds(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that an earlier version has written; and the next one of this run, too."""
    first = Asking(tmp_path, group)
    state = first.checkpointer._asked.state({}, {})
    del state["settings"]
    monkeypatch.setattr(first.checkpointer._asked, "state", lambda *_: state)
    with first.checkpointer as checkpointer:
        first.step()
        checkpointer.save()
    for eps in (1e-8, 1e-6, 1e-6):
        caplog.clear()
        again = Asking(tmp_path, group)
        again.optimizer.param_groups[0]["eps"] = eps
        with again.checkpointer as checkpointer:
            assert checkpointer.restore()
            again.step()
            checkpointer.save()
        assert ("settings hold (optimizer 0 eps: 1e-08, not 1e-06)" in caplog.text) == (eps == 1e-6)


class AskingOneAfterTheOther(Asking):
    """A warm-up, then a decay: two schedulers that a third one is made of."""

    def __init__(self, directory: Path, group: Group, *command_line: str) -> None:
        super().__init__(directory, group, *command_line)
        schedulers = torch.optim.lr_scheduler
        first = schedulers.LinearLR(self.optimizer, start_factor=0.1, total_iters=4)
        then = schedulers.CosineAnnealingLR(self.optimizer, T_max=10)
        self.scheduler = schedulers.SequentialLR(self.optimizer, [first, then], milestones=[4])  # type: ignore[assignment]


def test_a_rate_is_taken_over_by_schedulers_of_schedulers(tmp_path: Path, group: Group) -> None:
    (tmp_path / "other").mkdir()
    begun = AskingOneAfterTheOther(tmp_path, group)
    whole = AskingOneAfterTheOther(tmp_path / "other", group, "--learning-rate", "0.01")
    with begun.checkpointer as checkpointer:
        for _ in range(2):
            begun.step()
        checkpointer.save()
    for _ in range(2):
        whole.step()
    asked = AskingOneAfterTheOther(tmp_path, group, "--learning-rate", "0.01")
    assert asked.checkpointer.restore()
    for _ in range(6):  # beyond the milestone
        assert asked.setting == pytest.approx(whole.setting)
        asked.step()
        whole.step()
