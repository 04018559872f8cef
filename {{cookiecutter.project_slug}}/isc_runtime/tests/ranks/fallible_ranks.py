"""Ranks that agree, and ranks that fail in a way that has a name; a script for torchrun too."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time

import torch

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group, process_group
from isc_runtime.ranks.interruption import StopRequest
from isc_runtime.ranks.reporting import reported

ERROR = IscError("The thing is broken", "/some/path", "Fix it.", ExitCode.DATA)


DUPLICATE = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000"


def fall() -> None:
    """Raises an error that a person can understand."""
    raise ERROR


def agree(group: Group) -> None:
    """What agreements are for, without a failure."""
    assert group.gather(group.rank) == [0, 1]
    assert group.master(lambda: f"from {group.rank}") == "from 0"
    assert group.sum(torch.tensor([1.0 + group.rank])).tolist() == [3.0]
    assert group.each(lambda: -group.rank) == -group.rank
    assert group.largest(group.rank, 7 - group.rank) == [1, 7]
    to_master = group.to_master(("x" * group.rank * 1000, group.rank))
    assert to_master == ([] if group.rank else [("", 0), ("x" * 1000, 1)])
    said = [group.pulse(batch * (1 + group.rank), 7 - group.rank) for batch in range(4)]
    assert said == [[0, 0], [0, 7], [2, 7], [4, 7]]
    print(f"rank {group.rank} agrees")


def fail(group: Group, how: str) -> None:
    """Rank 1 (or the master) fails; the others wait for it in a collective."""
    if how == "in an agreement":
        group.each(lambda: fall() if group.rank == 1 else None)
    elif how == "on the master":
        group.master(fall)
    elif how == "alone" and group.rank == 1:
        raise ERROR
    elif how == "unforeseen" and group.rank == 1:
        raise ZeroDivisionError("nobody saw it coming")
    elif how == "sys.exit" and group.rank == 1:
        sys.exit(ast.literal_eval(os.environ["WISH"]))
    elif how == "killed" and group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "in its own place" and group.rank == 1:
        raise RuntimeError("cannot read /data/igloo")
    elif how == "by a collective":  # as NCCL says it; no rank is gone
        raise RuntimeError("NCCL error in: x.cpp:3, invalid usage") from RuntimeError(DUPLICATE)
    elif how == "stopped" and group.rank == 1:
        group.pulse(0)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "late" and group.rank == 1:
        group.pulse(0)
        time.sleep(600)
    else:
        group.pulse(0)
    group.sum(torch.zeros(1))
    raise AssertionError("a collective ended although a rank had failed")


def main(how: str) -> None:
    """What a rank does, from its start to its end."""
    with reported():
        if how == "before the group" and os.environ["RANK"] == "1":
            time.sleep(1)  # the other one waits in the rendezvous by now
            raise ERROR
    with reported(), process_group(Environment.read(), 60, 3) as ranks:
        StopRequest()  # as in train.py: torchrun's SIGTERM to the others must not hide the reason
        agree(ranks) if how == "agree" else fail(ranks, how)


if __name__ == "__main__":
    main(sys.argv[1])
