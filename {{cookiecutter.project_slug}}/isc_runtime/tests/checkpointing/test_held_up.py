"""For how long a save held up the training is said to the second: the log, the scalars and `auto` agree."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from isc_runtime.checkpointing import checkpointer as checkpointer_module
from isc_runtime.checkpointing import publishing as publishing_module
from isc_runtime.checkpointing.saving import save as save_module
from isc_runtime.checkpointing.saving import snapshot as snapshot_module
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.ranks_that_save import Gate, Training


class Seconds:
    """A clock that goes on only when it is told to; the scalars that are noted meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        for module in (checkpointer_module, publishing_module, save_module, snapshot_module):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self._now))

    def pass_by(self, seconds: float) -> float:
        """So many seconds; returns the time."""
        self._now += seconds
        return self._now


def noted(training: Training) -> dict[str, float]:
    """What is noted for TensorBoard from now on."""
    values: dict[str, float] = {}
    training.checkpointer.scalars.add = (  # type: ignore[method-assign]
        lambda name, value, step: values.update({name: value})
    )
    return values


def test_the_copy_the_step_that_waited_for_it_and_the_last_wait(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    training, seconds = Training(store, group), Seconds(monkeypatch)
    checkpointer, values = training.checkpointer, noted(training)
    snapshot, prepare, publish = checkpointer.equipment.snapshot, store.prepare, store.publish
    wait = snapshot.wait_until_copied
    monkeypatch.setattr(store, "prepare", lambda *given: (seconds.pass_by(2.0), prepare(*given))[1])
    monkeypatch.setattr(store, "publish", lambda payload: (publish(payload), seconds.pass_by(4.0))[0])
    training.step()
    checkpointer.save()
    monkeypatch.setattr(snapshot, "wait_until_copied", lambda: wait() * 0 + 0.25)
    monkeypatch.setattr(snapshot, "gpu_waited", lambda: 0.125)
    for _ in range(2):  # whoever's steps they are: each says how long it waited
        training.step()
    seconds.pass_by(100.0)  # of training
    checkpointer.finish()
    assert "training held up 6.625 s" in caplog.text
    assert values["checkpoint/stall_seconds"] == pytest.approx(6.625)
    assert checkpointer.policy.pace.save_seconds == pytest.approx(6.625)
    assert values["checkpoint/bytes"] / values["checkpoint/write_seconds"] == pytest.approx(
        values["checkpoint/bytes_per_second"]
    )


def test_a_slow_batch_s_look_at_a_save_that_is_nearly_written(
    store: Store, group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where batches are slow, a poll waits a while for the link: that holds up, too. And it is what each save
    costs, unless a start only does not know yet how slow they are."""
    caplog.set_level(logging.INFO)
    training, seconds, gate = Training(store, group), Seconds(monkeypatch), Gate()
    checkpointer, values, waits = training.checkpointer, noted(training), iter([3.0, 5.0, 7.0])

    def busy(*_: object) -> None:  # called each half second that it waits
        seconds.pass_by(next(waits, 0.0))
        if checkpointer.policy.pace.save_seconds > 3.0:  # in the third look
            gate.open()

    training.step()
    gate.before_payload(store)
    checkpointer.save()
    monkeypatch.setattr(group, "busy", busy)
    checkpointer._publisher.finish_soon(2.0, is_usual=False)
    assert checkpointer.policy.pace.save_seconds == 0.0
    checkpointer._publisher.finish_soon(2.0, is_usual=True)
    assert checkpointer.is_saving, "it was not written in these two seconds"
    assert checkpointer.policy.pace.save_seconds == 5.0
    checkpointer._publisher.finish_soon(60.0, is_usual=True)
    assert not checkpointer.is_saving
    assert "training held up 15.000 s" in caplog.text
    assert values["checkpoint/stall_seconds"] == 15.0
    assert checkpointer.policy.pace.save_seconds == 12.0
