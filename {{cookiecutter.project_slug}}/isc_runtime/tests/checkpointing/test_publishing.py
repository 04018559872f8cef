"""From a save to its link: published by poll alone; never what is torn, never what does not end."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.ranks_that_save import (
    WAYS,
    Gate,
    Training,
    on_each_rank,
    poll_until_saved,
)
from isc_runtime.tests.processes import run_forked

TORN = "Something else than the optimizer's step changes weights, and their copy may be of two instants"


def on_two_ranks(directory: Path, parallelism: str, work: Callable[[Training], None], **options: Any) -> str:
    """Runs `work` on two ranks, which must come to its end; returns what the master said."""
    ended = run_forked(directory, partial(on_each_rank, directory / "there", parallelism, work, **options))
    for rank, one in enumerate(ended):
        assert one.code == 0, one.output
        assert f"rank {rank} came to its end" in one.output
    return ended[0].output


def publish_by_poll(training: Training) -> None:
    """Saves twice; between the saves and after the last one there are only polls."""
    for step in (1, 2):
        training.step()
        training.checkpointer.save()
        training.step()
        assert poll_until_saved(training)
        assert training.published() == 2 * step - 1


def test_a_checkpoint_is_published_by_poll_alone(store: Store, group: Group) -> None:
    publish_by_poll(Training(store, group))


@WAYS
def test_a_checkpoint_of_two_ranks_is_published_by_poll_alone(tmp_path: Path, parallelism: str) -> None:
    (tmp_path / "there").mkdir()
    on_two_ranks(tmp_path, parallelism, publish_by_poll)


def test_poll_publishes_nothing_that_is_not_written(store: Store, group: Group) -> None:
    training, gate = Training(store, group), Gate()
    training.step()
    gate.before_payload(store)
    training.checkpointer.save()
    for _ in range(5):
        training.checkpointer.poll()
        assert training.checkpointer.is_saving
        assert training.published() is None
    gate.open()
    assert poll_until_saved(training)
    assert training.published() == 1


def test_a_torn_copy_is_never_published(store: Store, group: Group, caplog: pytest.LogCaptureFixture) -> None:
    training, gate = Training(store, group), Gate()
    training.step()
    gate.before_payload(store)
    training.checkpointer.save()
    training.change_weights()
    gate.open()
    assert poll_until_saved(training)
    assert training.checkpointer.failed_saves == 0  # no disk has failed: it is only made again
    assert training.checkpointer.is_due(100)
    assert TORN in caplog.text
    assert "From now on the training waits until all is copied." in caplog.text
    assert store.entries() == []
    training.checkpointer.save()  # copies all at once
    training.change_weights()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 0
    assert training.published() == 1


def evaluate_an_average(training: Training) -> None:
    """Saves while other weights are in the place of those that are trained, as an evaluation may."""
    weights = training.model.weight.detach().clone()
    with torch.no_grad():
        training.model.weight.mul_(0.5)
        training.checkpointer.save()
        training.model.weight.copy_(weights)


SAID = "Something else than an optimizer's step has changed weights between a save and the next step"


@pytest.mark.parametrize("options", [{"sync_save": True}, {}])
def test_weights_that_were_swapped_in_while_they_were_saved_are_named(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """Also when all is copied at once, and nothing can be torn any more."""
    training = Training(store, group, **options)
    training.step()
    if not options:
        training.checkpointer.equipment.snapshot.defer_nothing()
    evaluate_an_average(training)
    assert SAID not in caplog.text
    training.step()
    assert SAID in caplog.text
    training.checkpointer.finish()
    training.checkpointer.poll()
    assert training.checkpointer.is_due(0), "another one"
    training.checkpointer.save()
    training.step()
    training.checkpointer.finish()
    training.checkpointer.poll()
    assert not training.checkpointer.is_due(0)
    caplog.clear()
    evaluate_an_average(training)
    training.step()
    training.checkpointer.finish()
    training.checkpointer.poll()
    assert training.checkpointer.is_due(0), "each time"
    assert SAID not in caplog.text, "once"


def test_a_training_that_changes_weights_in_each_batch_does_not_save_for_ever(
    store: Store, group: Group
) -> None:
    training = Training(store, group, sync_save=True)
    training.step()
    due = []
    for _ in range(3):
        training.checkpointer.save()
        training.change_weights()
        training.step()
        training.checkpointer.poll()
        due.append(training.checkpointer.is_due(0))
    assert due == [True, False, False]


def test_weights_that_were_swapped_in_for_the_last_save_are_named(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(store, group, sync_save=True)
    training.step()
    evaluate_an_average(training)
    training.checkpointer.settle()
    assert SAID in caplog.text


@pytest.mark.parametrize("options", [{"sync_save": True}, {}])
def test_a_step_after_a_save_is_no_swap(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    training = Training(store, group, **options)
    for _ in range(3):
        training.step()
        training.checkpointer.save()
        training.checkpointer.finish()
    training.checkpointer.settle()
    assert "[STATE]" not in caplog.text


def tear(change: str, training: Training) -> None:
    """On rank 1 alone the shard changes between the save and its write."""
    training.step()
    gate = Gate()
    if training.group.rank == 1:
        gate.before_shards()
    training.checkpointer.save()
    if training.group.rank == 1:
        training.change_weights(change == "of the shard")
    gate.open()
    assert poll_until_saved(training)
    assert training.checkpointer.failed_saves == 0
    assert training.group.master(training.store.entries) == []
    training.checkpointer.save()
    training.change_weights()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 0
    assert training.published() == 1


@pytest.mark.parametrize("change", ["of the shard", "of the whole"])
def test_a_torn_shard_of_one_rank_is_never_published(tmp_path: Path, change: str) -> None:
    (tmp_path / "there").mkdir()
    output = on_two_ranks(tmp_path, "fsdp", partial(tear, change))
    assert (output.count("[FAILED]"), output.count("[AGAIN]")) == (0, 1)
    assert f"rank 1 on {os.uname().nodename}: {TORN}" in output


def test_a_save_that_does_not_end_has_failed(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training, gate = Training(store, group, save_timeout=0.2, max_failed_saves=2), Gate()
    training.step()
    gate.before_payload(store)
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 1
    payload = store.entries()[-1].payload if store.entries() else ""
    assert f"A save has not ended within 0.2 s: {payload}" in caplog.text
    assert "give it more time with --save-timeout" in caplog.text
    assert training.published() is None
    training.checkpointer.save()
    with pytest.raises(IscError, match=r"2 saves in a row failed.*not ended within 0.2 s") as raised:
        training.checkpointer.finish()
    assert raised.value.exit_code is ExitCode.SAVE
    gate.open()


def test_a_save_that_does_not_end_is_given_up_between_batches(
    store: Store, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    training, gate = Training(store, group, save_timeout=0.2), Gate()
    training.step()
    gate.before_payload(store)
    training.checkpointer.save()
    assert poll_until_saved(training)
    assert training.checkpointer.failed_saves == 1
    assert "A save has not ended within 0.2 s" in caplog.text
    gate.open()


def test_a_save_that_was_given_up_and_ends_late_is_no_checkpoint(store: Store, group: Group) -> None:
    """The next save copies into the memory that the first one is still to be written from."""
    training, gate = Training(store, group, save_timeout=0.2), Gate()
    training.step()
    gate.before_payload(store)
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 1
    training.step()
    training.checkpointer.save()
    gate.open()
    training.checkpointer.equipment.close(wait=True)
    assert [step for entry in store.entries() if (step := entry.read_manifest().step) == 1] == []


def lose_a_shard(training: Training) -> None:
    """Rank 1's storage does not answer; the master does not wait for it for ever, nor does rank 1."""
    training.step()
    gate = Gate()
    if training.group.rank == 1:
        gate.before_shards()
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 1
    assert training.published() is None
    gate.open()


def test_a_shard_that_is_never_written_fails_the_save_of_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    output = on_two_ranks(tmp_path, "fsdp", lose_a_shard, save_timeout=0.2)
    assert output.count("A save has not ended within 0.2 s: ") == 1
