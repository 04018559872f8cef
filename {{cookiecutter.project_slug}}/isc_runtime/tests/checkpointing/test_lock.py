"""A folder belongs to one training at a time, for as long as that lives."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.checkpointing.stores import lock
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.lock import LOCK_NAME, take_lock
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.test_inventory import tree
from isc_runtime.tests.processes import Place, rest_of, wait_for

STEPS = ("--save-steps", "2", "--epochs", "1")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long; forks of this process neither."""
    monkeypatch.setattr(lock, "PATIENCE", 0.3)


def in_a_fork(directory: Path, seconds: float = 0.0) -> int:
    """Takes the lock in another process, holds it for so long, and returns whether it got it: 0 or 9."""
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        held = take_lock(directory)
        time.sleep(seconds)
        del held
    except IscError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_has_its_name_and_is_no_file_is_left_and_named(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / LOCK_NAME)
    with pytest.raises(IscError, match="a folder or a link, and no lock") as raised:
        take_lock(tmp_path)
    assert raised.value.exit_code is ExitCode.UNFIT
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_a_second_training_ends_with_one_message_and_has_changed_nothing(
    tmp_path: Path, impatient: None
) -> None:
    place = Place(tmp_path)
    first = place.start("--pause", "0.05", *STEPS)
    wait_for(first, "[COMPLETE]")
    first.send_signal(signal.SIGSTOP)  # so that what changes is the second one's
    before = tree(place.checkpoints)
    for more in ([], ["--fresh"]):
        second = place.train(*STEPS, *more)
        assert tree(place.checkpoints) == before
        assert second.code == ExitCode.TAKEN
        (error,) = [line for line in second.output.splitlines() if "ERROR" in line]
        parts = (
            "Another training works in",
            f"pid {first.pid} on {os.uname().nodename}, since 2",
            "with kill",
        )
        assert all(part in error for part in (*parts, str(place.checkpoints)))
        assert "Traceback" not in second.output
    first.send_signal(signal.SIGCONT)
    rest = rest_of(first)
    assert first.returncode == 0, rest
    assert "[FAILED]" not in rest


def test_one_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    holder = in_a_fork(tmp_path, 0.5)
    while not (tmp_path / LOCK_NAME).exists():
        time.sleep(0.01)
    time.sleep(0.1)
    begun = time.monotonic()
    assert take_lock(tmp_path) is not None
    assert time.monotonic() - begun > 0.2
    assert code_of(holder) == 0


def test_the_kernel_lets_go_whatever_kills_the_holder(tmp_path: Path, impatient: None) -> None:
    holder = in_a_fork(tmp_path, 60)
    while not (tmp_path / LOCK_NAME).exists() or not (tmp_path / LOCK_NAME).stat().st_size:
        time.sleep(0.01)
    with pytest.raises(IscError, match=f"pid {holder} on "):
        take_lock(tmp_path)
    os.kill(holder, signal.SIGKILL)
    code_of(holder)
    assert take_lock(tmp_path) is not None


def test_a_forked_child_does_not_hold_it_for_its_parent(tmp_path: Path, impatient: None) -> None:
    held = take_lock(tmp_path)
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        assert code_of(in_a_fork(tmp_path)) == ExitCode.TAKEN, "the parent has it, child or not"
        del held
        gc.collect()
        assert code_of(in_a_fork(tmp_path)) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        code_of(child)


def test_a_process_may_train_twice_in_a_folder(tmp_path: Path, group: Group) -> None:
    stores = [LocalStore(tmp_path, group) for _ in range(2)]
    assert len(stores) == 2


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert take_lock(tmp_path) is None
    assert f"{tmp_path} has no locks" in caplog.text
    assert "start one training at a time" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"pid": "x"}', b"[" * 5000])
def test_whatever_is_in_the_file_of_the_lock(tmp_path: Path, impatient: None, content: bytes) -> None:
    held = take_lock(tmp_path)
    (tmp_path / LOCK_NAME).write_bytes(content)
    pid = os.fork()
    if not pid:
        try:
            take_lock(tmp_path)
        except IscError as error:
            os._exit(0 if "it does not say which" in str(error) else 1)
        os._exit(2)
    assert code_of(pid) == 0
    assert held is not None
