"""The network interface through which the nodes reach each other.

Gloo binds to the address that the machine's own name resolves to. On Debian and Ubuntu that is 127.0.1.1, and
then no rank of another node can connect. So, with several nodes, it is told the interface by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Iterator, MutableMapping

VARIABLE = "GLOO_SOCKET_IFNAME"
ELSEWHERE = "192.0.2.1"  # belongs to nobody (RFC 5737): the way there is the default route; nothing is sent
THIS_MACHINE = ("localhost", "127.", "::1")  # how an address begins that means this machine and no other


class _SocketAddress(ctypes.Structure):  # struct sockaddr, as long as the one of IPv6
    _fields_ = (("family", ctypes.c_ushort), ("data", ctypes.c_ubyte * 26))


class _InterfaceAddress(ctypes.Structure):  # struct ifaddrs, as far as it is read
    pass


_InterfaceAddress._fields_ = (
    ("next", ctypes.POINTER(_InterfaceAddress)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_SocketAddress)),
)


def choose_interface(nodes: int, variables: MutableMapping[str, str] = os.environ) -> None:
    """Names gloo the interface on the way to node 0, where there are several nodes and nobody has named one.

    It is the one that has the address from which this machine would talk to MASTER_ADDR. Where none is found
    gloo chooses as it always does. Linux.

    Args:
        nodes: how many there are.
        variables: of the environment; GLOO_SOCKET_IFNAME is added.
    """
    master = variables.get("MASTER_ADDR", "")
    if nodes == 1 or VARIABLE in variables or sys.platform != "linux" or not master:
        return
    is_rehearsal = master.startswith(THIS_MACHINE)  # all nodes are this machine
    name = interface_towards(master, or_loopback=is_rehearsal)
    if name is not None:
        variables[VARIABLE] = name


def interface_towards(address: str, or_loopback: bool = True) -> str | None:
    """The interface from which this machine would talk to an address; nothing is sent.

    Args:
        address: a name or an IP address.
        or_loopback: whether the loopback interface will do. Node 0 may find its own name at 127.0.1.1; what
            the others reach is then the interface of its default route, or the only one that has an address.

    Returns:
        Its name; None if that cannot be said.
    """
    by_address = dict(_addresses())
    if or_loopback:
        return by_address.get(_local_address(address))
    outward = {local: name for local, name in by_address.items() if not local.startswith(THIS_MACHINE)}
    for target in (address, ELSEWHERE):
        if (local := _local_address(target)) in outward:
            return outward[local]
    routable = {name for local, name in outward.items() if not local.startswith("fe80:")}  # of its link only
    return routable.pop() if len(routable) == 1 else None


def _local_address(address: str) -> str:
    """From which this machine would talk to that one; empty if there is no way."""
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, target in socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # of UDP: chooses the way, and sends nothing
                return str(probe.getsockname()[0]).partition("%")[0]
    return ""


def _addresses() -> Iterator[tuple[str, str]]:
    """Each IP address of this machine with the name of its interface, all addresses of an interface."""
    library = ctypes.CDLL(None)
    first = ctypes.POINTER(_InterfaceAddress)()
    if library.getifaddrs(ctypes.byref(first)):
        return
    try:
        entry = first
        while entry:
            found = entry.contents
            if found.address and found.address.contents.family in (socket.AF_INET, socket.AF_INET6):
                family, data = found.address.contents.family, bytes(found.address.contents.data)
                raw = data[2:6] if family == socket.AF_INET else data[6:22]  # after the port, and the flow
                yield socket.inet_ntop(family, raw), found.name.decode()
            entry = found.next
    finally:
        library.freeifaddrs(first)
