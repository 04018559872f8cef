"""What one rank fails at beside all agreements is one failed save, for all of them, and nobody hangs."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isc_runtime import rng
from isc_runtime.checkpointing.checkpointer import PAUSE
from isc_runtime.checkpointing.on_disk import manifest
from isc_runtime.checkpointing.saving.shard_writer import _Planner
from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.reporting import reported
from isc_runtime.tests.checkpointing.ranks_that_save import Training, on_each_rank
from isc_runtime.tests.processes import Ended, run_forked

SOON = 30.0  # seconds; whoever waits for another rank waits longer


def run(directory: Path, work: Callable[[Training], None], ways: str, ranks: int, **how: Any) -> list[Ended]:
    (directory / "there").mkdir()
    begun = time.monotonic()
    ended = run_forked(directory, partial(on_each_rank, directory / "there", ways, work, **how), ranks)
    assert time.monotonic() - begun < SOON, ended
    return ended


def raise_it(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("here")


def break_state(training: Training) -> None:
    training.state = raise_it  # type: ignore[method-assign]


def break_state_dict(training: Training) -> None:
    training.model.state_dict = raise_it  # type: ignore[method-assign]


def break_random_numbers(training: Training) -> None:
    rng.capture = raise_it


class Evasive:
    """A part whose own state of a rank cannot be told to the others."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """It has none."""

    def rank_state(self) -> Any:
        return threading.Lock()


def break_telling(training: Training) -> None:
    parts = training.state()
    training.state = lambda: {**parts, "evasive": evasive}  # type: ignore[method-assign]
    evasive = Evasive()


def break_planner(name: str, training: Training) -> None:
    setattr(_Planner, name, raise_it)


def fail_once(breaks: Callable[[Training], None], training: Training) -> None:
    """On rank 1 something breaks, and is whole again after one save."""
    kept = [dict(vars(one)) for one in (training, training.model, rng)]
    methods = {name: getattr(_Planner, name) for name in PLANNING}
    training.step()
    if training.group.rank == 1:
        breaks(training)
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 1
    for one, before in zip((training, training.model, rng), kept, strict=True):
        for name in vars(one).keys() - before.keys():
            delattr(one, name)
        rng.capture = kept[2]["capture"]
    for name, method in methods.items():
        setattr(_Planner, name, method)
    assert training.group.gather(training.published()) == [None, None]
    training.step()
    training.checkpointer.save()
    training.checkpointer.finish()
    assert training.checkpointer.failed_saves == 0
    assert training.published() == 2


PLANNING = ("set_up_planner", "create_local_plan", "create_global_plan", "parts")
BREAKS = [break_state, break_state_dict, break_random_numbers, break_telling]


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
@pytest.mark.parametrize("ways", ["ddp", "fsdp"])
def test_what_breaks_on_one_rank_is_one_failed_save(
    tmp_path: Path, breaks: Callable[[Training], None], ways: str
) -> None:
    ended = run(tmp_path, partial(fail_once, breaks), ways, 2)
    assert [one.code for one in ended] == [0, 0], ended
    (line,) = [line for line in ended[0].output.splitlines() if "[FAILED]" in line]
    assert f"failure 1 of 3 in a row): rank 1 on {os.uname().nodename}: " in line


@pytest.mark.parametrize("name", PLANNING)
def test_a_plan_of_shards_that_fails_on_one_rank_is_one_failed_save(tmp_path: Path, name: str) -> None:
    ended = run(tmp_path, partial(fail_once, partial(break_planner, name)), "fsdp", 2)
    assert [one.code for one in ended] == [0, 0], ended
    assert "rank 1 on" in ended[0].output.partition("[FAILED]")[2]


def test_a_saver_that_cannot_be_made_ends_all_ranks_with_one_reason(tmp_path: Path) -> None:
    def work() -> None:
        import cycling_utils

        cycling_utils.AtomicDirectory = raise_it
        with reported(), process_group(Environment.read(), 60, 60) as group:
            ArtifactStore(tmp_path, group)

    begun = time.monotonic()
    ended = run_forked(tmp_path, work)
    assert [one.code for one in ended] == [ExitCode.FAILED] * 2, ended
    assert time.monotonic() - begun < SOON
    assert sum(one.output.count("ERROR: rank 0 on") for one in ended) == 1, ended


class Broken(Exception):
    """Of the model."""


def fall_beside_a_save(write: Callable[..., str | None], training: Training) -> None:
    training.step()
    vars(training.store)["write"] = write
    with training.checkpointer:
        training.checkpointer.save()
        raise Broken("shapes do not fit")


def stuck(*_: object) -> str | None:
    time.sleep(600)
    return None


def failing(state: object, payload: Path) -> str | None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(payload))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("write", [stuck, failing])
def test_an_error_of_the_model_wins_over_that_of_a_save(
    tmp_path: Path, write: Callable[..., str | None], ranks: int
) -> None:
    how = {"max_failed_saves": 1, "save_timeout": 2.0}
    ended = run(tmp_path, partial(fall_beside_a_save, write), "ddp", ranks, **how)
    assert [one.code for one in ended] == [ExitCode.FAILED] * ranks, ended
    said = "".join(one.output for one in ended)
    assert "Traceback (most recent call last)" in said
    assert "Broken: shapes do not fit" in said.splitlines()[-1] + said.splitlines()[-2]
    if ranks == 1:
        assert "[END] Broken: shapes do not fit. The save under way is waited for, up to 2 s" in said


def train_beside_a_stuck_disk(training: Training) -> None:
    vars(training.store)["write"] = stuck
    with training.checkpointer:
        for batch in range(1000):
            training.step()
            if training.checkpointer.is_due(batch):
                training.checkpointer.save()
            training.checkpointer.poll()
            time.sleep(0.02)
    raise AssertionError("it trained to its end without a save")


def end_beside_a_stuck_disk(training: Training) -> None:
    vars(training.store)["write"] = stuck
    with training.checkpointer:
        training.step()
        training.checkpointer.save()


def read_from_a_stuck_disk(training: Training) -> None:
    vars(manifest)["checksum"] = stuck
    with training.checkpointer:
        training.step()
        training.checkpointer.save()


@pytest.mark.parametrize("work", [train_beside_a_stuck_disk, end_beside_a_stuck_disk, read_from_a_stuck_disk])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_disk_that_never_answers_ends_the_run_in_time(
    tmp_path: Path, work: Callable[[Training], None], ranks: int
) -> None:
    how = {"max_failed_saves": 2, "save_timeout": 1.0, "save_steps": 5}
    ended = run(tmp_path, work, "ddp", ranks, **how)
    assert [one.code for one in ended] == [ExitCode.SAVE] * ranks, ended
    assert "2 saves in a row failed" in "".join(one.output for one in ended)


def test_a_last_save_that_fails_is_not_repeated_at_once(tmp_path: Path) -> None:
    """What kept a disk from writing a millisecond ago keeps it still."""
    pauses: list[float] = []

    def fail_twice(training: Training) -> None:
        write, left = training.store.write, [2]

        def full(state: Any, payload: Path) -> str | None:
            left[0] -= 1
            return failing(state, payload) if left[0] >= 0 else write(state, payload)

        training.store.write = full  # type: ignore[method-assign]
        training.step()
        training.checkpointer.save()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", pauses.append)
            training.checkpointer.settle()
        assert pauses == [PAUSE, 2 * PAUSE]
        assert training.published() == 1

    (ended,) = run(tmp_path, fail_twice, "ddp", 1)
    assert ended.code == 0, ended.output
