"""The nodes of a training meet before torch is imported, each with one line to node 0 and one line back.

torchrun waits in silence for a node that never comes, and for ever where two have one number. Here all nodes
learn within the limit who is missing, who is there twice, who was told another number of nodes, and that one
of them is not ready to train.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.launching.node import Node

MOST = 64 * 1024  # bytes of a line
PAUSE = 0.2  # seconds between two attempts to reach node 0
LAST_WORDS = 5.0  # seconds in which a node that is not ready tells the others
GRACE = 2.0  # seconds for which nodes wait for a better reason than their own

Line = dict[str, Any]


@contextlib.contextmanager
def all_nodes(node: Node, limit: float) -> Iterator[None]:
    """Around the checks of one node: when they are done, it waits for those of all others.

    Args:
        node: this one.
        limit: seconds in which all must be there.

    Raises:
        IscError: what the checks here raise, or what is wrong with another node, or with their number.
    """
    node.check_address()
    listener = node.listen() if node.rank == 0 else None
    if listener is not None:
        called = threading.Thread(target=_Roll(node, listener, limit).call, daemon=True)
        called.start()
    try:
        yield
    except IscError as error:
        with contextlib.suppress(IscError):
            _meet(node, LAST_WORDS, error)
        raise
    else:
        _meet(node, limit, None)
    finally:
        if listener is not None:
            called.join(LAST_WORDS)  # until it has answered all
            listener.close()


def _meet(node: Node, limit: float, failure: IscError | None) -> None:
    """Says at node 0 that this node is here, and hears whether all are."""
    own: Line = {"node": node.rank, "nodes": node.nodes, "host": node.host, "id": uuid.uuid4().hex}
    own |= {"failure": failure and [failure.what, failure.where, failure.hint, failure.exit_code]}
    deadline = time.monotonic() + limit + GRACE  # node 0 knows better who is missing
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with socket.create_connection((node.address, node.port), timeout=left) as connection:
                connection.sendall(json.dumps(own).encode() + b"\n")
                verdict = _read(connection, max(0.1, deadline - time.monotonic()))["verdict"]
            if verdict is None:
                return
            what, where, hint, code = verdict
            raise IscError(str(what), where, str(hint), ExitCode(code))
        time.sleep(PAUSE)
    raise IscError(
        f"Node 0 does not answer {node.name} within {limit:g} s",
        f"MASTER_ADDR={node.address}, MASTER_PORT={node.port}",
        "Its log tells why. It must run, and be reachable at this address from every node; "
        "if it needs longer to come, raise --first-timeout.",
        ExitCode.PEER,
    )


def _read(connection: socket.socket, limit: float) -> Line:
    """One line from the other side. Raises OSError, or ValueError if it is not one of ours."""
    deadline, said = time.monotonic() + limit, b""
    while not said.endswith(b"\n"):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        part = connection.recv(4096)
        said += part
        if not part or len(said) > MOST or time.monotonic() > deadline:
            raise ValueError("no line")
    line = json.loads(said)
    if not isinstance(line, dict):
        raise ValueError("no line of ours")
    return line


class _Roll:
    """Node 0 hears all nodes, and answers them together.

    Args:
        node: node 0.
        listener: its port.
        limit: seconds in which all must have come.
    """

    def __init__(self, node: Node, listener: socket.socket, limit: float) -> None:
        self._node = node
        self._listener = listener
        self._limit = limit
        self._here: dict[int, Line] = {}
        self._connections: dict[int, list[socket.socket]] = {}
        self._lock = threading.Lock()
        self._verdict: list[Any] | None = None  # what, where, hint, exit code
        self._changed = threading.Event()

    def call(self) -> None:
        """Until all are here, or it is known that they will not be."""
        deadline = time.monotonic() + self._limit
        threading.Thread(target=self._accept, daemon=True).start()
        while not self._is_settled():
            left = deadline - time.monotonic()
            if left <= 0:
                self._verdict = self._verdict or self._missing()
                break
            self._changed.wait(left)
            self._changed.clear()
        if self._verdict is not None and len(self._here) < self._node.nodes:
            time.sleep(min(GRACE, max(0.0, deadline - time.monotonic())))
        answer = json.dumps({"verdict": self._verdict}).encode() + b"\n"
        with self._lock:
            for connection in (one for several in self._connections.values() for one in several):
                with contextlib.suppress(OSError), connection:
                    connection.sendall(answer)

    def _is_settled(self) -> bool:
        with self._lock:
            return self._verdict is not None or len(self._here) == self._node.nodes

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed when all is said
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._hear, args=(connection,), daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        try:
            line = _read(connection, self._limit)
            number = int(line["node"])
            host, nodes = str(line["host"]), int(line["nodes"])
            failure = line["failure"]
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()  # another program, or one that was killed
            return
        with self._lock:
            before = self._here.get(number)
            if before is not None and _has_left(self._connections[number][-1]):
                before = None  # killed, and started again
            self._here[number] = line
            self._connections.setdefault(number, []).append(connection)
            if self._verdict is None:
                self._verdict = self._wrong_with(number, host, nodes, failure, before)
        self._changed.set()

    def _wrong_with(
        self, number: int, host: str, nodes: int, failure: list[Any] | None, before: Line | None
    ) -> list[Any] | None:
        if failure is not None:
            what, where, hint, code = failure
            return [f"Node {number} on {host} is not ready to train: {what}", where, hint, code]
        if nodes != self._node.nodes:
            return [
                f"The nodes are told different numbers of nodes: {self._node.nodes} on {self._node.host}, "
                f"{nodes} on {host} (node {number})",
                f"NNODES={self._node.nodes} and NNODES={nodes}",
                "Set it to the same number on all nodes.",
                ExitCode.UNFIT,
            ]
        if before is not None:
            return [
                f"Two nodes have the number {number}: {before['host']} and {host}",
                f"NODE_RANK={number}",
                "Give each node a number of its own, from 0.",
                ExitCode.UNFIT,
            ]
        return None

    def _missing(self) -> list[Any]:
        missing = [str(number) for number in range(self._node.nodes) if number not in self._here]
        here = ", ".join(f"{line['host']} (node {number})" for number, line in sorted(self._here.items()))
        several = len(missing) > 1
        return [
            f"Node{'s' * several} {', '.join(missing)} of {self._node.nodes} did not come within "
            f"{self._limit:g} s; here {'are' if len(self._here) > 1 else 'is'} {here or 'none'}",
            f"NNODES={self._node.nodes}, MASTER_ADDR={self._node.address}, MASTER_PORT={self._node.port}",
            "Look at their logs. If they need longer to come, raise --first-timeout.",
            ExitCode.PEER,
        ]


def _has_left(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
