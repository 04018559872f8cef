"""What launch.sh is told of its node, looked at before torch, which says it late or not at all."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from isc_runtime.errors import IscError

NAMES = ("NNODES", "N_PROC", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
RESOLVE_SECONDS = 10.0  # a name may be known a moment after the node is there
PORT_SECONDS = 5.0  # a training that was stopped a moment ago may still have it
LARGEST_PORT = 65535
BY_WHOM = "The ISC sets it on every node; elsewhere set it as torchrun needs it."


@dataclass(frozen=True)
class Node:
    """One of the nodes of a training, as its variables say.

    Attributes:
        rank: of this node.
        nodes: how many there are.
        processes: on this one.
        address: of node 0, where all meet.
        port: there.
        host: the name of this machine.
    """

    rank: int
    nodes: int
    processes: int
    address: str
    port: int
    host: str

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Node:
        """Reads the variables that launch.sh needs; it has made sure that they are set.

        Raises:
            IscError: one of them is no number, or cannot be true.
        """
        host = socket.gethostname()
        numbers = {}
        for name, least in {"NNODES": 1, "N_PROC": 1, "MASTER_PORT": 1, "NODE_RANK": 0}.items():
            value = variables.get(name, "").strip()
            if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) >= least):
                raise _wrong(f"{name} is not a whole number of at least {least}", name, variables, host)
            numbers[name] = int(value)
        if numbers["MASTER_PORT"] > LARGEST_PORT:
            raise _wrong(f"MASTER_PORT is larger than {LARGEST_PORT}", "MASTER_PORT", variables, host)
        if numbers["NODE_RANK"] >= numbers["NNODES"]:
            most, nodes = numbers["NNODES"] - 1, numbers["NNODES"]
            what = f"NODE_RANK is not from 0 to {most}, and NNODES={nodes}"
            raise _wrong(what, "NODE_RANK", variables, host)
        address = variables.get("MASTER_ADDR", "").strip()
        numbers = {name.lower(): number for name, number in numbers.items()}
        return cls(
            numbers["node_rank"], numbers["nnodes"], numbers["n_proc"], address, numbers["master_port"], host
        )

    @property
    def name(self) -> str:
        """The node, as messages name it."""
        return f"node {self.rank} of {self.nodes} on {self.host}"

    def check_address(self) -> None:
        """Asks for the address of node 0, for some seconds. Raises IscError."""
        deadline = time.monotonic() + RESOLVE_SECONDS
        said: list[str] = []

        def resolve() -> None:  # in a thread: nothing else limits how long it asks a name server
            while time.monotonic() < deadline:
                try:
                    socket.getaddrinfo(self.address, self.port, type=socket.SOCK_STREAM)
                    said.append("")
                    return
                except (OSError, UnicodeError) as error:
                    said.append(f" ({getattr(error, 'strerror', None) or error})")
                time.sleep(0.5)

        asking = threading.Thread(target=resolve, daemon=True)
        asking.start()
        asking.join(RESOLVE_SECONDS)
        if not said or said[-1]:
            raise IscError(
                f"The address of node 0 is not known on {self.name}{said[-1] if said else ''}",
                f"MASTER_ADDR={self.address}",
                f"Give the name or the number under which all nodes reach node 0. {BY_WHOM}",
            )

    def listen(self) -> socket.socket:
        """Node 0's: takes its port, as torch will. Raises IscError if somebody else has it."""
        deadline = time.monotonic() + PORT_SECONDS
        while True:
            try:
                return self._listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                raise IscError(
                    f"The port of node 0 cannot be used on {self.name} ({error.strerror})",
                    f"MASTER_PORT={self.port}",
                    "Another program has it, an earlier training perhaps: end that, or choose another port.",
                ) from None

    def _listen(self) -> socket.socket:
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(
                    ("", self.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256
                )
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise  # else IPv6 is there, and switched off
        return socket.create_server(("", self.port), backlog=256)


def _wrong(what: str, name: str, variables: Mapping[str, str], host: str) -> IscError:
    rank = variables.get("NODE_RANK", "?")
    return IscError(f"{what} (node {rank} on {host})", f"{name}={variables.get(name, '')}", BY_WHOM)
