"""Nodes meet, and all of them learn in time why they cannot train together."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.launching import roll_call
from isc_runtime.ranks.launching.node import Node
from isc_runtime.ranks.launching.roll_call import all_nodes

LIMIT = 3.0


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def nodes(port: int, *ranks: int, of: int) -> list[Node]:
    """Nodes of these numbers, each on a machine of its own."""
    return [Node(rank, of, 1, "127.0.0.1", port, f"host{at}") for at, rank in enumerate(ranks)]


def come(node: Node, failure: IscError | None = None, after: float = 0.0) -> IscError | None:
    """What a node does, after some seconds; returns what it ends with."""
    time.sleep(after)
    try:
        with all_nodes(node, LIMIT):
            if failure is not None:
                raise failure
    except IscError as error:
        return error
    return None


def together(*calls: tuple[Node, IscError | None, float]) -> list[IscError | None]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(come, *call) for call in calls]]


def test_all_are_there_whoever_comes_last(port: int) -> None:
    zero, one, two = nodes(port, 0, 1, 2, of=3)
    assert together((zero, None, 0.5), (one, None, 0.0), (two, None, 1.0)) == [None] * 3


def test_the_only_node_meets_itself(port: int) -> None:
    assert together((nodes(port, 0, of=1)[0], None, 0.0)) == [None]


def test_a_node_that_never_comes_is_named_on_all_nodes(port: int) -> None:
    zero, two = nodes(port, 0, 2, of=4)
    begun = time.monotonic()
    for error in together((zero, None, 0.0), (two, None, 0.0)):
        assert error is not None
        assert error.what.startswith(
            "Nodes 1, 3 of 4 did not come within 3 s; here are host0 (node 0), host1"
        )
        assert error.exit_code is ExitCode.PEER
        assert "--first-timeout" in error.hint
    assert time.monotonic() - begun < 3 * LIMIT


def test_without_node_0_the_others_say_whom_they_miss(port: int) -> None:
    (error,) = together((nodes(port, 1, of=2)[0], None, 0.0))
    assert error is not None
    assert error.what == "Node 0 does not answer node 1 of 2 on host0 within 3 s"
    assert error.where == f"MASTER_ADDR=127.0.0.1, MASTER_PORT={port}"


@pytest.mark.parametrize("wait", [0.0, 0.5])
def test_two_nodes_with_one_number(port: int, wait: float) -> None:
    zero, one, again = nodes(port, 0, 1, 1, of=3)
    for error in together((zero, None, 0.0), (one, None, 0.0), (again, None, wait)):
        assert error is not None
        assert error.what.startswith("Two nodes have the number 1: host")
        assert error.where == "NODE_RANK=1"
        assert error.exit_code is ExitCode.UNFIT


def test_nodes_that_were_told_different_numbers(port: int) -> None:
    (zero,), (one,) = nodes(port, 0, of=2), nodes(port, 1, of=3)
    for error in together((zero, None, 0.0), (one, None, 0.0)):
        assert error is not None
        assert "2 on host0, 3 on host0 (node 1)" in error.what
        assert error.where == "NNODES=2 and NNODES=3"


@pytest.mark.parametrize("not_ready", [0, 1])
def test_a_node_that_is_not_ready_ends_all_with_its_reason(port: int, not_ready: int) -> None:
    reason = IscError("The disk is gone", "/there", "Bring it back.", ExitCode.DATA)
    pair = nodes(port, 0, 1, of=2)
    begun = time.monotonic()
    ended = together(*((node, reason if node.rank == not_ready else None, 0.0) for node in pair))
    assert ended[not_ready] is reason
    other = ended[1 - not_ready]
    assert other is not None
    assert other.what == f"Node {not_ready} on host{not_ready} is not ready to train: The disk is gone"
    assert (other.where, other.hint, other.exit_code) == ("/there", "Bring it back.", ExitCode.DATA)
    assert time.monotonic() - begun < LIMIT + roll_call.GRACE + 1


def test_strangers_at_the_port_are_not_nodes(port: int) -> None:
    zero, one = nodes(port, 0, 1, of=2)

    def disturb() -> None:
        for said in (
            b"GET / HTTP/1.1\n",
            b"\0" * 100_000,
            b"[1]\n",
            json.dumps({"node": "x"}).encode() + b"\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(said)

    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(come, zero)
        time.sleep(0.3)
        disturb()
        assert come(one) is None
        assert waiting.result() is None


def test_a_node_that_was_killed_while_it_waited_may_come_again(port: int) -> None:
    zero, one = nodes(port, 0, 1, of=3)
    two = nodes(port, 2, of=3)[0]
    answers: list[IscError | None] = []
    first = threading.Thread(target=lambda: answers.append(come(zero)))
    first.start()
    time.sleep(0.3)
    own = {"node": 1, "nodes": 3, "host": "host1", "id": "x", "failure": None}
    with socket.create_connection(("127.0.0.1", port), timeout=5) as killed:
        killed.sendall(json.dumps(own).encode() + b"\n")
        time.sleep(0.2)
    assert together((one, None, 0.0), (two, None, 0.2)) == [None, None]
    first.join()
    assert answers == [None]
