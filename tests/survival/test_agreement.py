"""A failure on any one rank, at any stage, ends all ranks within two seconds, with its reason."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ranks
import train
from isc_runtime import preflight
from isc_runtime.checkpointing.checkpointer import Checkpointer
from isc_runtime.checkpointing.stores import artifact_store, local_store, output, repair
from isc_runtime.errors import ExitCode

HOST = socket.gethostname()
ARGUMENTS = ("--epochs", "3", "--batch-size", "64", "--save-steps", "5", "--max-failed-saves", "1")
SECONDS = 2.0


def fails(target: object, name: str, error: BaseException, at_call: int = 1) -> Callable[[Path], None]:
    """Makes a function raise at its nth call, and notes when that was."""

    def arrange(directory: Path) -> None:
        original, calls = getattr(target, name), [0]

        def function(*arguments: Any, **keywords: Any) -> Any:
            calls[0] += 1
            if calls[0] == at_call:
                (directory / "failed-at").write_text(str(time.time()))
                raise error
            return original(*arguments, **keywords)

        setattr(target, name, function)

    return arrange


def alone_on_another_disk(directory: Path) -> None:
    """The node's checkpoint directory is not the master's."""
    (directory / "other").mkdir()
    os.chdir(directory / "other")


IO_ERROR = OSError(errno.EIO, os.strerror(errno.EIO), "/the/path")
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")
CASES: dict[str, tuple[Callable[[Path], None], int, str, int]] = {
    "probe": (fails(preflight, "probe", IO_ERROR), ExitCode.UNFIT, "not writable .*Input/output", 0),
    "no shared disk": (alone_on_another_disk, ExitCode.UNFIT, "does not see what the master writes", 1),
    "data": (fails(train, "load_data", IO_ERROR), ExitCode.UNFIT, "Input/output error: /the/path", 0),
    "allocate": (fails(train, "build_model", NO_MEMORY), ExitCode.FAILED, "out of memory", 0),
    "load": (fails(torch, "load", IO_ERROR), ExitCode.CHECKPOINT, "Input/output error", 0),
    "forward": (fails(train, "batch_loss", NO_MEMORY, 7), ExitCode.FAILED, "out of memory", 0),
    "evaluation": (fails(train, "batch_scores", IO_ERROR), ExitCode.UNFIT, "Input/output error", 0),
}
MASTER_CASES = {
    "prepare": (local_store.LocalStore, "next_payload"),
    "write": (local_store.LocalStore, "write"),
    "sync": (output, "sync"),
    "commit": (repair, "link_durably"),
}


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("stage", CASES)
def test_one_falls_all_fall(stage: str, rank: int, nodes: int, tmp_path: Path) -> None:
    arrange, code, reason, least_rank = CASES[stage]
    if rank < least_rank or (stage in ("probe", "no shared disk") and nodes == 1 and rank == 1):
        pytest.skip("only the first rank of a node looks at the directory")
    if stage == "load":
        ranks.run(tmp_path, "--epochs", "1", ranks=2)
    training = ranks.start(
        tmp_path,
        *ARGUMENTS,
        ranks=2,
        nodes=nodes,
        before=lambda own: arrange(tmp_path) if own == rank else None,
    )
    codes = training.wait()
    ended = time.time()
    said = [training.output(own) for own in range(2)]
    assert codes == [code, code], said
    errors = [line for text in said for line in text.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == nodes, said  # one for each node's log
    for error in errors:
        assert error.startswith(f"ERROR: rank {rank} on {HOST}: ")
        assert re.search(reason, error)
    if (tmp_path / "failed-at").exists():
        assert ended - float((tmp_path / "failed-at").read_text()) < SECONDS


@pytest.mark.parametrize("stage", MASTER_CASES)
def test_a_save_that_the_master_cannot_do_ends_all(stage: str, tmp_path: Path) -> None:
    """With --max-failed-saves 1 the first one; what ends the run is known to all ranks."""
    arrange = fails(*MASTER_CASES[stage], IO_ERROR)
    training = ranks.start(
        tmp_path, *ARGUMENTS, ranks=2, before=lambda own: arrange(tmp_path) if own == 0 else None
    )
    codes = training.wait()
    ended = time.time()
    said = [training.output(own) for own in range(2)]
    assert codes == [ExitCode.SAVE] * 2, said
    assert f"ERROR: rank 0 on {HOST}: 1 saves in a row failed" in said[0]
    assert (".pth.temp" if stage == "sync" else "/the/path") in said[0]
    assert ended - float((tmp_path / "failed-at").read_text()) < SECONDS


def test_a_slow_disk_is_not_taken_for_a_hang(tmp_path: Path) -> None:
    """A save that takes longer than a batch may: the ranks hear from each other while they wait for it."""
    write = local_store.LocalStore.write

    def slow(self: local_store.LocalStore, state: dict[str, Any], payload: Path) -> None:
        time.sleep(5)
        write(self, state, payload)

    arguments = ("--epochs", "1", "--batch-size", "64", "--timeout", "3")
    training = ranks.start(
        tmp_path,
        *arguments,
        ranks=2,
        before=lambda own: setattr(local_store.LocalStore, "write", slow),
    )
    assert training.wait() == [0, 0], training.story
    assert "[COMPLETE]" in training.log


def test_a_save_that_never_ends_is_an_error(tmp_path: Path) -> None:
    arguments = ("--epochs", "1", "--batch-size", "64", "--timeout", "3", "--save-timeout", "4")
    training = ranks.start(
        tmp_path,
        *arguments,
        ranks=2,
        before=lambda own: setattr(local_store.LocalStore, "write", lambda *all_: time.sleep(600)),
    )
    assert training.wait() == [ExitCode.SAVE] * 2, training.story
    assert "A save has not ended within 4 s" in training.log + training.output(1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_gone_is_noticed(how: signal.Signals, rank: int, tmp_path: Path) -> None:
    """At once when it was killed, after the timeout when it only stands still."""
    arguments = ("--epochs", "100000", "--batch-size", "64", "--timeout", "4")
    training = ranks.start(tmp_path, *arguments, ranks=2)
    wait_for(training, "epoch 3 of")
    victim, other = training.children[rank], training.children[1 - rank]
    os.kill(victim.pid, how)
    struck = time.time()
    assert other.wait() == ExitCode.PEER, training.output(1 - rank)
    assert time.time() - struck < (SECONDS if how is signal.SIGKILL else 4 + 2 * SECONDS)
    if how is signal.SIGSTOP:
        victim.kill()
    victim.wait()
    said = training.output(1 - rank)
    # here rank 0 holds the rendezvous store, which torchrun holds otherwise: it is gone with it, or stuck
    assert f"no answer from rank {rank} on {HOST}" in said or (rank == 0 and "node 0" in said), said[-2000:]


def wait_for(training: ranks.Run, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in training.log:
        assert time.monotonic() < deadline, training.story
        time.sleep(0.05)


def test_cycling_utils_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "artifact").mkdir()
    monkeypatch.setenv("LOSSY_ARTIFACT_PATH", str(tmp_path))
    monkeypatch.setenv("CHECKPOINT_ARTIFACT_PATH", str(tmp_path / "artifact"))

    def arrange(own: int) -> None:
        if own == 1:
            import sys

            sys.modules["cycling_utils"] = None  # type: ignore[assignment]  # import raises ImportError

    training = ranks.start(tmp_path, *ARGUMENTS, ranks=2, before=arrange)
    assert training.wait() == [ExitCode.UNFIT] * 2
    assert f"rank 1 on {HOST}: " in training.output(1)
    assert "cycling_utils" in training.output(1)


def test_the_collectives_of_the_teams_rule_are_there() -> None:
    """Every rank takes part in both calls: a saver has them under the names that the team knows."""
    saver = artifact_store.ArtifactStore
    assert callable(saver.prepare_checkpoint_directory)
    assert callable(saver.symlink_latest)
    assert callable(Checkpointer.save)
