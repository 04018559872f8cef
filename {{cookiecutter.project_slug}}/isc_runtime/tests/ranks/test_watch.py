"""What the training itself cannot notice, because it waits where nothing ends, ends all ranks."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist

from isc_runtime.errors import ExitCode
from isc_runtime.tests.processes import Ended, run_forked
from isc_runtime.tests.ranks import watched_ranks
from isc_runtime.tests.ranks.test_interruption import is_running

HOST = socket.gethostname()


def errors(*ended: Ended) -> list[str]:
    """What these ranks gave as a reason."""
    return re.findall(r"^ERROR: (.*)", "\n".join(one.output for one in ended), re.MULTILINE)


def test_a_rank_that_falls_by_itself_takes_down_those_that_wait_for_others(tmp_path: Path) -> None:
    """No connection of theirs breaks: rank 0 waits for rank 2, which computes."""
    # as torchrun's agent has it
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]

    def work() -> None:
        os.environ |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        watched_ranks.work(watched_ranks.fall_alone, timeout=600)

    begun = time.monotonic()
    ended = run_forked(tmp_path, work, ranks=3)
    assert [one.code for one in ended] == [ExitCode.DATA] * 3, ended
    assert errors(*ended) == [f"rank 1 on {HOST}: The thing is broken: /some/path. Repair it."]
    assert time.monotonic() - begun < watched_ranks.LIMIT


@pytest.mark.parametrize("by_agent", ["True", "False"])
def test_a_rank_that_never_came_is_named_with_the_limit_that_it_missed(tmp_path: Path, by_agent: str) -> None:
    """The variable says in a word whose store it is; only with torchrun's own the ranks do not wait in it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]

    def work() -> None:
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = by_agent
        if by_agent == "True":
            os.environ["MASTER_PORT"] = str(store.port)
        watched_ranks.come_late(2.0)

    ended = run_forked(tmp_path, work, ranks=3)
    assert [one.code for one in ended] == [ExitCode.PEER, ExitCode.PEER, 0], ended
    said = errors(*ended) if by_agent == "True" else errors(ended[0])  # the store is gone with rank 0
    if by_agent == "True":
        expected = f"on {HOST}: No batch was finished within 2 s; rank 2 never came. Its log tells why; "
        assert expected in said[0]
    else:
        assert "The ranks did not find each other within 2 s" in said[0]
    assert all("raise --first-timeout" in error for error in said)


@pytest.mark.skipif(sys.platform != "linux", reason="how a process without a parent is found there")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_whose_launcher_ended_while_it_started_does_not_train(tmp_path: Path, ranks: int) -> None:
    told = tmp_path / "pid"

    def launch() -> None:
        os.environ["TORCHELASTIC_RUN_ID"] = "1"
        if ranks > 1:
            os.environ |= {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        run_forked(tmp_path, partial(watched_ranks.lose_the_launcher, told), ranks=1)

    launcher = multiprocessing.get_context("fork").Process(target=launch)
    launcher.start()
    deadline = time.monotonic() + 20
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    while is_running(int(told.read_text())):
        assert time.monotonic() < deadline + 20, "it goes on without a launcher"
        time.sleep(0.05)
    said = (tmp_path / "rank0.txt").read_text()
    assert "ERROR: torchrun is gone: it ended while its ranks started." in said
    assert "trains on" not in said


def test_a_batch_that_does_not_end_in_time_ends_all_and_shows_where_they_are(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, partial(watched_ranks.work, watched_ranks.nothing))
    assert [one.code for one in ended] == [ExitCode.PEER] * 2, ended
    (error,) = errors(*ended)
    # the one that the other one waits for
    assert re.match(rf"rank 1 on {HOST}: No batch was finished within 2 s\. Above is where", error)
    assert error.endswith("if a batch really takes that long, raise --timeout.")
    (speaker,) = (one for one in ended if errors(one))
    assert "in wait_where_nothing_ends" in speaker.output.partition("ERROR")[0]


def test_what_is_no_batch_but_goes_on_is_not_taken_for_hung(tmp_path: Path) -> None:
    """Each word between the ranks and each batch gives the next one its whole time."""
    ended = run_forked(tmp_path, partial(watched_ranks.work, watched_ranks.go_on))
    for rank, one in enumerate(ended):
        assert f"rank {rank} goes on" in one.output.partition("ERROR")[0], one.output
    assert len(errors(*ended)) == 1  # what comes after it never ends


def test_a_rank_that_stands_still_is_named(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, partial(watched_ranks.work, partial(watched_ranks.stand_still, 1)))
    assert ended[0].code == ExitCode.PEER
    (error,) = errors(ended[0])
    expected = f"rank 0 on {HOST}: No batch was finished within 2 s; no answer from rank 1 on {HOST}. Above"
    assert error.startswith(expected)
    assert ended[1].code == ExitCode.PEER, ended[1].output  # once it goes on again


def test_when_node_0_stands_still_with_the_store_the_others_end_by_their_clocks(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, partial(watched_ranks.work, partial(watched_ranks.stand_still, 0)))
    assert ended[1].code == ExitCode.PEER
    (error,) = errors(ended[1])
    expected = f"rank 1 on {HOST}: No batch was finished within 2 s; node 0 does not answer. Above is where"
    assert error.startswith(expected)
    assert "in wait_where_nothing_ends" in ended[1].output.partition("ERROR")[0]


@pytest.mark.skipif(sys.platform != "linux", reason="how a process without a parent is found there")
def test_ranks_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    """torchrun is killed, by the machine's memory for one: nobody would end its ranks."""
    work = partial(watched_ranks.work, watched_ranks.nothing, timeout=600)
    launcher = multiprocessing.get_context("fork").Process(target=run_forked, args=(tmp_path, work))
    launcher.start()
    outputs = [tmp_path / f"rank{rank}.txt" for rank in range(2)]
    deadline = time.monotonic() + 20
    while not all(output.exists() and "is here" in output.read_text() for output in outputs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(re.findall(r"is here: (\d+)", output.read_text())[0]) for output in outputs]
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.join()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "they go on without a launcher"
        time.sleep(0.05)
    expected = f"ERROR: rank 0 on {HOST}: torchrun is gone. Without it nobody would end this process."
    assert expected in outputs[0].read_text()
    assert "ERROR: rank 1 on" in outputs[1].read_text()
