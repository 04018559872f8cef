"""What the variables of a node may be, and what is said of those that cannot be true."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.launching import node as node_module
from isc_runtime.ranks.launching.node import Node

GOOD = {"NNODES": "2", "N_PROC": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "1"}
HOST = socket.gethostname()


def test_they_are_read() -> None:
    assert Node.read(GOOD) == Node(1, 2, 4, "127.0.0.1", 29500, HOST)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("NNODES", "0", "NNODES is not a whole number of at least 1"),
        ("NNODES", "two", "NNODES is not a whole number of at least 1"),
        ("N_PROC", "x", "N_PROC is not a whole number of at least 1"),
        ("N_PROC", "0", "N_PROC is not a whole number of at least 1"),
        ("N_PROC", "9" * 5000, "N_PROC is not a whole number of at least 1"),
        ("NODE_RANK", "-1", "NODE_RANK is not a whole number of at least 0"),
        ("NODE_RANK", "5", "NODE_RANK is not from 0 to 1, and NNODES=2"),
        ("NODE_RANK", "2", "NODE_RANK is not from 0 to 1, and NNODES=2"),
        ("MASTER_PORT", "http", "MASTER_PORT is not a whole number of at least 1"),
        ("MASTER_PORT", "0", "MASTER_PORT is not a whole number of at least 1"),
        ("MASTER_PORT", "65536", "MASTER_PORT is larger than 65535"),
    ],
)
def test_one_that_cannot_be_true_is_named_with_its_node(name: str, value: str, what: str) -> None:
    variables = {**GOOD, name: value}
    with pytest.raises(IscError) as raised:
        Node.read(variables)
    assert raised.value.what == f"{what} (node {variables['NODE_RANK']} on {HOST})"
    assert raised.value.where == f"{name}={value}"
    assert raised.value.exit_code is ExitCode.UNFIT


def test_an_address_that_is_not_known_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "RESOLVE_SECONDS", 1.0)
    begun = time.monotonic()
    with pytest.raises(IscError) as raised:
        replace(Node.read(GOOD), address="node-0.invalid").check_address()
    assert time.monotonic() - begun < 5
    assert raised.value.where == "MASTER_ADDR=node-0.invalid"
    assert f"node 1 of 2 on {HOST}" in raised.value.what


def test_a_name_server_that_does_not_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "RESOLVE_SECONDS", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))
    with pytest.raises(IscError, match="address of node 0 is not known"):
        Node.read(GOOD).check_address()


def test_a_port_that_another_program_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "PORT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(IscError) as raised:
            replace(Node.read(GOOD), rank=0, port=port).listen()
    assert raised.value.where == f"MASTER_PORT={port}"
    assert f"node 0 of 2 on {HOST}" in raised.value.what
    replace(Node.read(GOOD), rank=0, port=port).listen().close()
