"""What a training loop sees of its checkpoints."""

from __future__ import annotations

import copy
import logging
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from isc_runtime import rng
from isc_runtime.checkpointing import checkpointer as checkpointer_module
from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.choosing import Chosen
from isc_runtime.checkpointing.loading import load
from isc_runtime.checkpointing.parts import State
from isc_runtime.checkpointing.run import Run
from isc_runtime.checkpointing.saving import save as save_module
from isc_runtime.checkpointing.saving.state_size import expected_size
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.logs import Scalars
from isc_runtime.options import AUTO, CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.interruption import Stopped, StopRequest
from isc_runtime.sampler import ElasticSampler
from isc_runtime.tests.processes import differences


class Training:
    """A model, all that belongs to it, and a step that draws from every random number generator."""

    def __init__(self, store: Store, group: Group, width: int = 4, **options: Any) -> None:
        rng.seed_everything(0)
        self.model = nn.Sequential(nn.Linear(8, width), nn.Dropout(0.5), nn.Linear(width, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 3)
        self.scaler = torch.amp.GradScaler("cpu")
        self.metrics: dict[str, Any] = {"seen": 0}
        self.sampler = ElasticSampler(64, 4)
        names = ("model", "optimizer", "scheduler", "scaler", "sampler", "metrics")
        self.parts: State = {name: getattr(self, name) for name in names}
        self.run = Run(store, group, StopRequest(), Scalars(None))
        self.checkpointer = Checkpointer(self.run, self, CheckpointOptions(**options))

    def state(self) -> State:
        return self.parts

    def step(self) -> float:
        loss: torch.Tensor = self.model(torch.randn(4, 8)).square().mean()
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if self.sampler.is_epoch_done:
            self.sampler.next_epoch()
        self.sampler.advance()
        self.metrics["seen"] += 4
        return loss.item()

    def everything(self) -> dict[str, Any]:
        """What a checkpoint of this instant should hold, put together without the Checkpointer's own code."""
        parts = {
            name: part if isinstance(part, dict) else part.state_dict() for name, part in self.parts.items()
        }
        return copy.deepcopy({**parts, "rng": [rng.capture(torch.device("cpu"))]})


def content(store: Store) -> dict[str, Any]:
    """The parts in the newest checkpoint, as torch reads it."""
    state: dict[str, Any] = torch.load(store.entries()[-1].payload, weights_only=True)
    del state["saves"], state["asked"]
    return state


def test_what_is_restored_goes_on_as_if_nothing_had_happened(store: Store, group: Group) -> None:
    training = Training(store, group)
    with training.checkpointer as checkpointer:
        assert not checkpointer.restore()
        for _ in range(5):
            training.step()
        checkpointer.save()
    expected = [training.step() for _ in range(5)]
    again = Training(store, group)
    with again.checkpointer as checkpointer:
        assert checkpointer.restore()
        assert [again.step() for _ in range(5)] == expected
    assert differences(again.everything(), training.everything()) == []


def test_while_a_node_reads_a_checkpoint_nobody_takes_it_for_hung(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading terabytes takes longer than a start may; on each node, not on the master's alone."""
    training = Training(store, group, width=4096)
    with training.checkpointer as checkpointer:
        training.step()
        checkpointer.save()
    heard: list[str] = []
    entry = store.entries()[-1]
    manifest = entry.verify()
    for node, seen in {"master's": frozenset(manifest.files), "other": frozenset[str]()}.items():
        monkeypatch.setattr(Group, "busy", lambda *_, node=node: heard.append(node))
        again = Training(store, group, width=4096)
        load(again.state(), Chosen(entry, manifest, seen), group, again.checkpointer._asked)
    assert set(heard) == {"other"}
    monkeypatch.undo()
    monkeypatch.setattr(Group, "busy", lambda *_: heard.append("master"))
    assert Training(store, group, width=4096).checkpointer.restore()
    assert set(heard) == {"other", "master"}


def test_settings_that_the_checkpoint_overrules_are_named(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(store, group)
    with training.checkpointer as checkpointer:
        for _ in range(4):  # after which the scheduler has changed the rate: that is no setting
            training.step()
        checkpointer.save()
    for rate, expected in ((1e-3, ""), (0.5, "(optimizer 0 initial_lr: 0.001, not 0.5; seed: 0, not 7)")):
        caplog.clear()
        again = Training(store, group)
        again.optimizer.param_groups[0]["initial_lr"] = rate
        again.optimizer.param_groups[0]["new in a later torch"] = True
        again.sampler.seed = 7 if expected else 0
        again.checkpointer.restore()
        assert ("[RESUME]" in caplog.text) == bool(expected)
        assert expected in caplog.text
        assert again.optimizer.param_groups[0]["initial_lr"] == 1e-3


def test_training_goes_on_while_a_save_is_written(store: Store, group: Group) -> None:
    """What is saved is the state at the call, whatever the training does to it afterwards."""
    training = Training(store, group)
    with training.checkpointer as checkpointer:
        training.step()
        saved = training.everything()
        checkpointer.save()
        for _ in range(20):
            training.step()
    assert differences(content(store), saved) == []


def fail_writes(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The next `count` writes end with a full disk."""
    write, left = store.write, [count]

    def full(state: dict[str, Any], payload: Path) -> None:
        if left[0]:
            left[0] -= 1
            payload.write_bytes(b"torn")
            raise OSError(28, os.strerror(28), str(payload))
        write(state, payload)

    monkeypatch.setattr(store, "write", full)


def test_a_failed_save_is_logged_and_the_next_one_tried(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(store, group)
    with training.checkpointer as checkpointer:
        training.step()
        checkpointer.save()
        checkpointer.finish()
        fail_writes(store, monkeypatch, 2)
        for _ in range(3):
            training.step()
            checkpointer.save()
            checkpointer.finish()
    assert caplog.text.count("[FAILED]") == 2
    assert "No space left on device" in caplog.text
    assert len(store.entries()) == 2
    again = Training(store, group)
    again.checkpointer.restore()
    assert again.sampler.progress.step == 4


def test_failures_in_a_row_end_the_run_and_keep_the_last_good_checkpoint(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(store, group, max_failed_saves=2)
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    fail_writes(store, monkeypatch, 99)
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    training.step()
    training.checkpointer.save()
    with pytest.raises(IscError, match=r"2 saves in a row failed.*No space left") as raised:
        training.checkpointer.finish()
    assert raised.value.exit_code == ExitCode.SAVE
    again = Training(store, group)
    again.checkpointer.restore()
    assert again.sampler.progress.step == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_never_saved(
    store: Store, group: Group, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(store, group)
    training.step()
    with torch.no_grad():
        training.model.get_parameter("2.weight")[0, 1] = value
    training.checkpointer.save()
    with pytest.raises(IscError, match="3 saves in a row failed"):
        training.checkpointer.settle()
    assert "NaN or infinite values: model.2.weight" in caplog.text
    assert store.entries() == []


def test_what_became_not_finite_is_refused_in_any_module(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """A causal mask is full of -inf from the start; an average of weights is a module like the model."""
    training = Training(store, group)
    training.model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    training.parts["average"] = torch.optim.swa_utils.AveragedModel(training.model)
    again = Checkpointer(training.run, training, CheckpointOptions())
    again.restore()
    training.step()
    again.save()
    again.finish()
    assert len(store.entries()) == 1
    training.parts["average"].get_parameter("module.0.weight").data[0, 0] = torch.nan  # type: ignore[union-attr]
    again.save()
    again.finish()
    assert "NaN or infinite values: average.module.0.weight" in caplog.text
    assert len(store.entries()) == 1


def test_a_last_save_that_fails_is_repeated(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(store, group)
    with training.checkpointer as checkpointer:
        training.step()
        fail_writes(store, monkeypatch, 2)
        checkpointer.save()
    again = Training(store, group)
    again.checkpointer.restore()
    assert again.sampler.progress.step == 1


def test_a_last_save_that_keeps_failing_is_no_completed_training(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(store, group)
    training.step()
    fail_writes(store, monkeypatch, 99)
    training.checkpointer.save()
    with pytest.raises(IscError, match="3 saves in a row failed") as raised, training.checkpointer:
        pass
    assert raised.value.exit_code == ExitCode.SAVE


def test_a_stop_whose_save_fails_tries_again(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(store, group)
    training.step()
    training.checkpointer.poll()
    fail_writes(store, monkeypatch, 1)
    ask(training, signal.SIGTERM)
    with pytest.raises(Stopped):
        training.checkpointer.poll()
    assert [entry.read_manifest().step for entry in store.entries()] == [1]


def ask(training: Training, number: signal.Signals) -> None:
    """Sends this process a signal, and waits until the thread that listens has heard it."""
    signal.raise_signal(number)
    deadline = time.monotonic() + 5
    while not training.checkpointer.stop.signal_number and time.monotonic() < deadline:
        time.sleep(0.01)


def test_what_could_not_be_loaded_again_is_not_saved(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(store, group)
    training.metrics["scalar"] = np.float64(0.5)  # becomes a plain number
    training.metrics["path"] = Path("x")
    training.checkpointer.save()
    assert "PosixPath cannot be part of a checkpoint: metrics.path" in caplog.text
    del training.metrics["path"]
    training.checkpointer.settle()
    again = Training(store, group)
    again.checkpointer.restore()
    assert again.metrics["scalar"] == 0.5


def test_what_could_not_be_loaded_again_is_said_before_the_first_batch(store: Store, group: Group) -> None:
    training = Training(store, group)
    training.metrics["seen"] = {1, 2}
    with pytest.raises(IscError, match=r"A builtins\.set cannot be part of a checkpoint: metrics\.seen"):
        training.checkpointer.restore()


def test_the_first_checkpoint_is_read_back_before_it_counts(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a planner of states has overlooked: what cannot be loaded is no success."""
    monkeypatch.setattr("isc_runtime.checkpointing.saving.snapshot.check_loadable", lambda path, node: None)
    training = Training(store, group)
    training.metrics["path"] = Path("x")
    training.checkpointer.save()
    training.checkpointer.finish()
    assert "cannot be loaded again (Weights only load failed" in caplog.text
    assert store.entries() == []
    del training.metrics["path"]
    training.checkpointer.save()
    training.checkpointer.settle()
    assert len(store.entries()) == 1


def test_a_payload_of_another_program_is_said_in_words(store: Store, group: Group) -> None:
    payload = store.prepare(1, False)
    store.save({"model": Path("unsafe")}, payload, 1, {})
    store.publish(payload)
    with pytest.raises(IscError, match="not safe to load") as raised:
        Training(store, group).checkpointer.restore()
    assert raised.value.exit_code == ExitCode.CHECKPOINT


def test_another_model_is_said_in_one_message(store: Store, group: Group) -> None:
    with (training := Training(store, group)).checkpointer as checkpointer:
        training.step()
        checkpointer.save()
    with pytest.raises(
        IscError, match=r"another training: its 'model' does not fit.*size mismatch"
    ) as raised:
        Training(store, group, width=5).checkpointer.restore()
    assert raised.value.exit_code == ExitCode.CHECKPOINT
    assert "--fresh" in raised.value.hint


def test_a_missing_part_is_said_in_one_message(store: Store, group: Group) -> None:
    with (training := Training(store, group)).checkpointer as checkpointer:
        training.step()
        checkpointer.save()
    other = Training(store, group)
    other.parts["teacher"] = nn.Linear(1, 1)
    with pytest.raises(IscError, match=r"its 'teacher' does not fit \(it has none\)"):
        other.checkpointer.restore()


def test_fresh_starts_over_and_keeps_the_old_ones(store: Store, group: Group) -> None:
    with (training := Training(store, group)).checkpointer as checkpointer:
        training.step()
        checkpointer.save()
    assert not Training(store, group, fresh=True).checkpointer.restore()
    assert not Training(store, group).checkpointer.restore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_next_batch_and_stops(
    store: Store, group: Group, number: signal.Signals
) -> None:
    training = Training(store, group)
    checkpointer = training.checkpointer
    training.step()
    checkpointer.poll()
    ask(training, number)
    training.step()
    with pytest.raises(Stopped) as raised:
        checkpointer.poll()
    assert raised.value.code == 128 + number
    again = Training(store, group)
    again.checkpointer.restore()
    assert again.sampler.progress.step == 2


def test_a_stop_right_after_a_save_does_not_save_twice(store: Store, group: Group) -> None:
    training = Training(store, group)
    training.step()
    training.checkpointer.save()
    ask(training, signal.SIGTERM)
    with pytest.raises(Stopped):
        training.checkpointer.poll()
    assert len(store.entries()) == 1


def test_no_room_for_two_checkpoints_is_said_before_the_first_batch(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(store, group)
    needed = 2 * expected_size(training.parts.values())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed - 1})())
    what = f"no room for two checkpoints: {needed} bytes are needed, {needed - 1} are free"
    with pytest.raises(IscError, match=what) as raised:
        training.checkpointer.restore()
    assert raised.value.exit_code == ExitCode.SAVE


def test_beside_a_checkpoint_there_must_be_room_for_one(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (training := Training(store, group)).checkpointer as checkpointer:
        training.step()
        checkpointer.save()
    needed = expected_size(training.parts.values())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed})())
    assert Training(store, group).checkpointer.restore()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": needed - 1})())
    with pytest.raises(IscError, match="no room for another checkpoint"):
        Training(store, group).checkpointer.restore()


def test_every_nth_save_is_an_anchor(store: Store, group: Group) -> None:
    with (training := Training(store, group, anchor_saves=3)).checkpointer as checkpointer:
        for _ in range(7):
            training.step()
            checkpointer.save()
    forced = [entry.read_manifest().details["force"] for entry in store.entries()]
    assert forced == [False, False, True, False, False, True, False]


def test_auto_sets_the_interval_after_the_first_save(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with (training := Training(store, group, save_steps=AUTO)).checkpointer as checkpointer:
        for _ in range(3):
            training.step()
            checkpointer.poll()
        before = checkpointer.policy.save_steps
        checkpointer.save()
    assert checkpointer.policy.save_steps != before
    assert f"Saving every {checkpointer.policy.save_steps} batches: a save costs " in caplog.text
    saved_at = training.sampler.progress.step
    training.sampler.progress.step = saved_at + checkpointer.policy.save_steps - 1
    assert not checkpointer.is_due(0)
    training.sampler.progress.step += 1
    assert checkpointer.is_due(0)


def test_a_position_that_takes_the_place_of_another_is_the_one_that_counts(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a training that weighs its samples anew in each epoch: it was saved as if it stood still, and by
    the way of AUTO no more."""
    caplog.set_level(logging.INFO)
    training = Training(store, group)
    training.checkpointer.restore()
    training.step()
    assert training.checkpointer.is_due(0)
    training.checkpointer.save()
    training.checkpointer.finish()
    other = ElasticSampler(64, 4, weights=[1.0] * 64)
    other.load_state_dict(training.sampler.state_dict())
    training.sampler = training.parts["sampler"] = other
    training.checkpointer.policy.save_steps = 3
    for step in (2, 3, 4):
        training.step()
        assert training.checkpointer.is_due(step - 1) == (step == 4)
    training.checkpointer.save()
    training.checkpointer.finish()
    assert "Saving checkpoint of step 4" in caplog.text
    del training.parts["sampler"]
    training.checkpointer.save()
    assert "does not say how far" in caplog.text
    assert training.checkpointer.failed_saves == 1


def test_auto_takes_no_evaluation_and_no_start_of_an_epoch_for_the_cost_of_a_save(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]  # seconds that were not waited for
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    for module in (checkpointer_module, save_module):
        monkeypatch.setattr(module, "time", clock)
    with (training := Training(store, group, save_steps=AUTO)).checkpointer as checkpointer:
        for _ in range(4):
            passed[0] += 30.0  # loaders, the first fetch
            for _ in range(len(training.sampler)):
                training.step()
                checkpointer.poll()
            for _ in range(3):
                passed[0] += 30.0
                checkpointer.poll()
            training.sampler.next_epoch()
            checkpointer.save()
    assert 0 < checkpointer.policy.pace.batch_seconds < 5
    assert 0 < checkpointer.policy.pace.save_seconds < 5


def test_a_save_is_written_when_it_is_durable_and_not_when_a_batch_ends(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    for module in (checkpointer_module, save_module):
        monkeypatch.setattr(module, "time", clock)
    training = Training(store, group)
    training.step()
    training.checkpointer.save()
    training.checkpointer.equipment.writer.submit(lambda: None).result()  # it is written by now
    passed[0] += 100.0
    training.checkpointer.poll()
    (seconds,) = re.findall(r"bytes in ([\d.]+) s", caplog.text)
    assert float(seconds) < 50


def test_no_step_waits_for_a_deletion(store: Store, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the copy of what it changes, and for nothing else that is done in the background."""
    begun, may_end = threading.Event(), threading.Event()

    def delete() -> None:
        begun.set()
        assert may_end.wait(60)

    training = Training(store, group)
    monkeypatch.setattr(store, "tidy", delete)
    with training.checkpointer as checkpointer:
        training.step()
        checkpointer.save()
        checkpointer.finish()
        assert begun.wait(60)
        training.step()
        checkpointer.save()
        step = threading.Thread(target=training.step, daemon=True)
        step.start()
        step.join(60)
        has_waited = step.is_alive()
        may_end.set()
        step.join(60)
    assert not has_waited
    assert content(store)["metrics"] == {"seen": 8}


def test_threads_use_the_gpu_of_their_rank(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread's is number 0: every rank of a node would take memory there."""
    chosen: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        torch.accelerator,
        "set_device_index",
        lambda device: chosen.append((threading.current_thread().name, device)),
    )
    device = torch.device("cuda", 3)
    equipment = save_module.Equipment(store, Group(Environment(), device))
    for background in (equipment.writer, equipment.copier):
        background.submit(int).result()
    equipment.snapshot._copiers.submit(int).result()
    equipment.close(wait=True)
    assert {name.partition("_")[0] for name, _ in chosen} == {"checkpoint-writer", "copier", "snapshot"}
    assert {where for _, where in chosen} == {device}


def test_the_log_has_the_lines_that_the_team_knows(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with (training := Training(store, group)).checkpointer as checkpointer:
        training.step()
        checkpointer.save()
    payload = str(store.entries()[-1].payload)
    for mark in ("[ATTEMPT]", "[SUCCESS]", "[COMPLETE]"):
        line = next(line for line in caplog.messages if line.startswith(mark))
        assert payload in line
    complete = next(line for line in caplog.messages if line.startswith("[COMPLETE]"))
    for part in ("step 1", "mode local", "bytes in", "training held up"):
        assert part in complete
