"""What one rank wants, fails at or was told, and what becomes of it on all of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor.debug import CommDebugMode

from isc_runtime.checkpointing.saving import shard_writer
from isc_runtime.ranks.group import current_group
from isc_runtime.tests.checkpointing.ranks_that_save import WAYS, Training, on_each_rank
from isc_runtime.tests.processes import Ended, run_forked


def on_two_ranks(directory: Path, work: Callable[[Training], None], parallelism: str = "ddp") -> list[Ended]:
    """Runs `work` on two ranks that save into a folder `there`."""
    (directory / "there").mkdir(exist_ok=True)
    return run_forked(directory, partial(on_each_rank, directory / "there", parallelism, work))


def came_to_their_end(ended: list[Ended]) -> bool:
    return all(f"rank {rank} came to its end" in one.output for rank, one in enumerate(ended))


def force_on_rank_1(training: Training) -> None:
    for step in (1, 2):
        training.step()
        training.checkpointer.save(force=step == 2 and training.group.rank == 1)
        training.checkpointer.finish()
    forced = [entry.read_manifest().details["force"] for entry in training.store.entries()]
    assert forced == [False, True]


def test_any_rank_s_wish_keeps_a_checkpoint(tmp_path: Path) -> None:
    ended = on_two_ranks(tmp_path, force_on_rank_1)
    assert came_to_their_end(ended), ended


def all_shards_are_named(training: Training) -> None:
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    if training.group.is_master:
        (entry,) = training.store.entries()
        there = {path.name for path in entry.path.iterdir()}
        assert len([name for name in there if name.endswith(".distcp")]) == 2
        assert there == {*entry.read_manifest().files, entry.manifest.name}


def a_resume_exchanges_no_tensor(training: Training) -> None:
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    with CommDebugMode() as exchanged:  # type: ignore[no-untyped-call]  # torch's own are not
        training.checkpointer.restore()
    names = [str(name) for name in exchanged.get_comm_counts()]
    assert not [name for name in names if "functional" in name], "what a sharded tensor does by itself"


def test_a_resume_asks_no_rank_for_what_it_holds_of_a_tensor(tmp_path: Path) -> None:
    ended = on_two_ranks(tmp_path, a_resume_exchanges_no_tensor, "fsdp")
    assert came_to_their_end(ended), ended


def nothing_is_copied_ahead(training: Training) -> None:
    """What is written are copies in host memory, for which torch's writer would ask the GPU for a stream."""
    training.step()
    with mock.patch.object(shard_writer, "FileSystemWriter", wraps=FileSystemWriter) as made:
        training.checkpointer.save()
        training.checkpointer.finish()
    assert made.call_args.kwargs["per_thread_copy_ahead"] == 0


def test_a_sharded_write_asks_the_gpu_for_nothing(tmp_path: Path) -> None:
    ended = on_two_ranks(tmp_path, nothing_is_copied_ahead, "fsdp")
    assert came_to_their_end(ended), ended


def test_the_manifest_names_the_shards_of_all_ranks(tmp_path: Path) -> None:
    ended = on_two_ranks(tmp_path, all_shards_are_named, "fsdp")
    assert came_to_their_end(ended), ended


def fail_on_rank_1(training: Training) -> None:
    """A state_dict of the user's raises, on one rank alone."""
    training.step()
    if training.group.rank == 1:
        training.optimizer.state_dict = lambda: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    training.checkpointer.save()
    assert training.checkpointer.failed_saves == 1
    assert not training.checkpointer.is_saving
    training.group.gather(None)
    assert training.store.entries() == []
    training.optimizer.__dict__.pop("state_dict", None)
    training.checkpointer.settle()
    assert training.published() == 1


@WAYS
def test_a_rank_that_cannot_say_its_state_fails_the_save_of_all(tmp_path: Path, parallelism: str) -> None:
    ended = on_two_ranks(tmp_path, fail_on_rank_1, parallelism)
    assert came_to_their_end(ended), ended
    (line,) = (line for line in ended[0].output.splitlines() if "[FAILED]" in line)
    assert f"failure 1 of 3 in a row): rank 1 on {os.uname().nodename}: ZeroDivisionError" in line


def save_random_numbers(training: Training) -> None:
    torch.manual_seed(100 + training.group.rank)
    training.step()
    training.checkpointer.save()
    training.checkpointer.settle()
    print(f"drew {torch.rand(3).tolist()}")


def restore_random_numbers(training: Training) -> None:
    torch.manual_seed(0)
    assert training.checkpointer.restore()
    print(f"drew {torch.rand(3).tolist()}")
    assert training.sampler.progress.step == 1


@WAYS
def test_each_rank_gets_its_own_random_numbers_back(tmp_path: Path, parallelism: str) -> None:
    drawn = []
    for work in (save_random_numbers, restore_random_numbers):
        ended = on_two_ranks(tmp_path, work, parallelism)
        assert came_to_their_end(ended), ended
        drawn.append([line for one in ended for line in one.output.splitlines() if line.startswith("drew")])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


def stop_on_rank_1(training: Training) -> None:
    """Only one rank is told, and as a rule not at the end of a batch; all stop after the same one."""
    for _ in range(2000):
        training.step()
        training.checkpointer.poll()
        if training.group.rank == 1 and training.sampler.progress.step == 3:
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)


def test_a_signal_to_one_rank_stops_all_after_the_same_batch(tmp_path: Path) -> None:
    ended = on_two_ranks(tmp_path, stop_on_rank_1)
    assert [one.code for one in ended] == [128 + signal.SIGTERM] * 2, ended
    (step,) = ended[0].steps(" - checkpoint - INFO - Stopped by signal 15 at step")
    state = torch.load(tmp_path / "there" / "resume.pth", weights_only=True)
    assert state["sampler"]["step"] == step
    assert 3 < step < 2000


class Broken(Exception):
    """Ends a training, on one rank or on the only one."""


def test_what_was_saved_before_a_training_falls_is_published(tmp_path: Path) -> None:
    def work(training: Training) -> None:
        training.step()
        with training.checkpointer:
            training.checkpointer.save()
            raise Broken

    (tmp_path / "there").mkdir()
    (ended,) = run_forked(tmp_path, partial(on_each_rank, tmp_path / "there", "ddp", work), ranks=1)
    assert ended.code == 1, ended.output
    assert "Broken" in ended.output
    assert torch.load(tmp_path / "there" / "resume.pth", weights_only=True)["sampler"]["step"] == 1


def fall_on_rank_1(training: Training) -> None:
    training.step()
    with training.checkpointer:
        training.checkpointer.save()
        if training.group.rank == 1:
            raise Broken
        time.sleep(600)


@WAYS
def test_a_rank_that_falls_beside_a_save_waits_for_nobody(tmp_path: Path, parallelism: str) -> None:
    """The other ranks are in no collective with it: it must not try to publish with them."""
    begun = time.monotonic()
    ended = on_two_ranks(tmp_path, fall_on_rank_1, parallelism)
    assert [one.code for one in ended] == [1, 1], ended
    assert "Broken" in ended[1].output
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("ways", [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_checkpoint_of_either_kind_is_resumed_by_the_other(tmp_path: Path, ways: tuple[str, str]) -> None:
    for work, parallelism in zip((save_random_numbers, restore_random_numbers), ways, strict=True):
        ended = on_two_ranks(tmp_path, work, parallelism)
        assert came_to_their_end(ended), ended


class Gathering(torch.optim.AdamW):
    """Its `state_dict` is a collective, as of optimizers whose ranks have each a part of the state."""

    def state_dict(self) -> dict[str, Any]:
        current_group().gather(None)
        return super().state_dict()


def restore_and_save_what_gathers(training: Training) -> None:
    training.optimizer = Gathering(training.model.parameters())
    assert not training.checkpointer.restore()
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.published() == 1


def test_every_rank_is_asked_for_its_state(tmp_path: Path) -> None:
    ended = on_two_ranks(tmp_path, restore_and_save_what_gathers)
    assert came_to_their_end(ended), ended
