"""Two real processes agree; and when one falls, both fall, with the reason."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import NCCL_LEAVES_THE_END_TO_US, Group, process_group
from isc_runtime.ranks.rank_error import RankError
from isc_runtime.tests.processes import Place, run_forked
from isc_runtime.tests.ranks import fallible_ranks

SCRIPT = Path(fallible_ranks.__file__)


def test_nccl_leaves_the_end_to_us(tmp_path: Path) -> None:
    """It reads its variables when the group is made."""

    def work() -> None:
        seen: dict[str, str] = {}
        make = dist.init_process_group

        def noted(*given: Any, **options: Any) -> None:
            seen.update(os.environ)
            make(*given, **options)

        with mock.patch.object(dist, "init_process_group", noted), process_group(Environment.read(), 60, 60):
            assert [seen.get(name) for name in NCCL_LEAVES_THE_END_TO_US] == ["0"] * 3

    ended = run_forked(tmp_path, work)
    assert [one.code for one in ended] == [0, 0], ended


def test_two_ranks_agree(tmp_path: Path) -> None:
    for rank, ended in enumerate(run_forked(tmp_path, partial(fallible_ranks.main, "agree"))):
        assert ended.code == 0, ended.output
        assert f"rank {rank} agrees" in ended.output


@pytest.mark.parametrize(
    ("how", "rank", "code", "expected"),
    [
        ("in an agreement", 1, ExitCode.DATA, "The thing is broken: /some/path. Fix it."),
        ("on the master", 0, ExitCode.DATA, "The thing is broken: /some/path. Fix it."),
        ("alone", 1, ExitCode.DATA, "The thing is broken: /some/path. Fix it."),
        ("unforeseen", 1, ExitCode.FAILED, "ZeroDivisionError: nobody saw it coming"),
        ("killed", 0, ExitCode.PEER, f"no answer from rank 1 on {socket.gethostname()}"),
        ("killed", 0, ExitCode.PEER, " by peer"),
        ("in its own place", 1, ExitCode.FAILED, "RuntimeError: cannot read /data/igloo"),
    ],
)
def test_one_falls_all_fall_with_the_reason(
    tmp_path: Path, how: str, rank: int, code: int, expected: str
) -> None:
    ended = run_forked(tmp_path, partial(fallible_ranks.main, how))
    expected_codes = [code, -signal.SIGKILL] if how == "killed" else [code, code]
    assert [one.code for one in ended] == expected_codes, ended
    said = "".join(one.output for one in ended)
    (error,) = re.findall(r"ERROR: rank .*", said)
    assert error.startswith(f"ERROR: rank {rank} on {socket.gethostname()}: ")
    assert expected in error
    assert "a collective ended" not in said


def test_a_collective_that_fails_though_no_rank_is_gone_says_why(tmp_path: Path) -> None:
    ended = run_forked(tmp_path, partial(fallible_ranks.main, "by a collective"))
    assert [one.code for one in ended] == [ExitCode.UNFIT] * 2, ended
    (error,) = re.findall(r"ERROR: rank .*", "".join(one.output for one in ended))
    assert "Two ranks use the same GPU (NCCL error in: x.cpp:3, invalid usage <- Duplicate GPU" in error
    assert "N_PROC" in error


def test_torchrun_ends_with_the_code_of_the_reason(tmp_path: Path) -> None:
    ended = Place(tmp_path, script=SCRIPT).run("alone", ranks=2)
    assert ended.code == ExitCode.DATA, ended.output
    assert len(re.findall(r"ERROR: rank 1 on .*: The thing is broken", ended.output)) == 1, ended.output


def test_a_rank_that_falls_before_there_is_a_group_takes_the_others_down(tmp_path: Path) -> None:
    """An import that fails, say. torchrun alone would kill the others half a minute later, and only here."""
    ended = Place(tmp_path, script=SCRIPT).run("before the group", ranks=2)
    assert ended.code == ExitCode.DATA
    assert "ERROR: The thing is broken: /some/path. Fix it." in ended.output
    assert "SIGKILL" not in ended.output


def test_what_takes_long_on_one_rank_is_waited_for_while_it_says_so(tmp_path: Path) -> None:
    """The master verifies a large checkpoint, say, for longer than a batch may take."""

    def work() -> None:
        def verify() -> str:
            for _ in range(20):
                time.sleep(0.2)
                ranks.busy(1, 2)
            return "verified"

        with process_group(Environment.read(), 2, 2) as ranks:
            print(ranks.master(verify))

    ended = run_forked(tmp_path, work)
    assert [(one.code, one.output.strip()) for one in ended] == [(0, "verified")] * 2


def test_a_group_of_one_agrees_with_itself() -> None:
    group = Group(Environment(), torch.device("cpu"))
    assert group.gather("x") == ["x"]
    assert group.to_master("x") == ["x"]
    assert group.largest(3, 4) == [3, 4]
    assert group.pulse(3, 4) == [3, 4]
    assert group.master(lambda: 5) == 5
    assert group.each(lambda: 6) == 6

    def fall() -> None:
        raise IscError("What", "where", "Hint.", ExitCode.DATA)

    with pytest.raises(RankError, match=r"rank 0 on .*: What: where\. Hint\.") as raised:
        group.each(fall)
    assert raised.value.exit_code is ExitCode.DATA
