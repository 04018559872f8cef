"""Several nodes find the interface through which they reach each other, whatever their names resolve to."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isc_runtime.ranks.interfaces import VARIABLE, choose_interface, interface_towards
from isc_runtime.tests.processes import PATIENCE, Place
from isc_runtime.tests.ranks import fallible_ranks

SCRIPT = Path(fallible_ranks.__file__)
TOOLS = ("ip", "unshare", "nsenter", "mount")
NETWORK = "10.77.0"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere gloo chooses")
def test_the_interface_of_this_machine_is_found() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("localhost") == "lo"
    assert interface_towards("no.such.host.invalid") is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere gloo chooses")
def test_only_several_nodes_choose_and_only_where_nobody_has() -> None:
    alone = {"MASTER_ADDR": "127.0.0.1"}
    choose_interface(1, alone)
    assert VARIABLE not in alone
    chosen = {"MASTER_ADDR": "127.0.0.1", VARIABLE: "theirs"}
    choose_interface(2, chosen)
    assert chosen[VARIABLE] == "theirs"
    rehearsed = {"MASTER_ADDR": "127.0.0.1"}  # all nodes are this machine
    choose_interface(2, rehearsed)
    assert rehearsed[VARIABLE] == "lo"


def why_there_are_no_namespaces() -> str:
    """Empty where this machine can play two nodes."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"there is no {missing[0]}"
    made = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return made.stderr.strip()


class Nodes:
    """Two nodes on this machine: each has a network, a name and an /etc/hosts of its own.

    Args:
        directory: takes the files that stand for /etc/hosts.
        hosts: what they hold.
    """

    def __init__(self, directory: Path, hosts: tuple[str, str]) -> None:
        self.holders = [
            subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sleep", "300"]) for _ in hosts
        ]
        for holder in self.holders:
            self._wait_for_namespace(holder.pid)
        first, second = (str(holder.pid) for holder in self.holders)
        self._do("ip", "link", "add", "isc0", "netns", first, "type", "veth", "peer", "isc0", "netns", second)
        for node, text in enumerate(hosts):
            file = directory / f"hosts{node}"
            file.write_text(text)
            steps = (
                f"hostname node{node}; mount --bind {file} /etc/hosts; ip link set lo up;"
                f"ip address add {NETWORK}.{node + 1}/24 dev isc0; ip link set isc0 up"
            )
            self._do(*self.on(node), "sh", "-ec", steps)

    @staticmethod
    def _do(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)

    @staticmethod
    def _wait_for_namespace(pid: int) -> None:
        own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + 10
        while Path(f"/proc/{pid}/ns/net").readlink() == own:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def on(self, node: int) -> list[str]:
        """How a command begins that runs on a node."""
        return ["nsenter", "--target", str(self.holders[node].pid), "--net", "--uts", "--mount"]

    def end(self) -> None:
        """The namespaces end with what holds them."""
        for holder in self.holders:
            holder.kill()
            holder.wait()


@pytest.fixture(params=[f"{NETWORK}.1", "node0"], ids=["address", "name"])
def master(request: pytest.FixtureRequest) -> str:
    """What MASTER_ADDR says."""
    return str(request.param)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Two nodes as Debian and Ubuntu set them up: a node's own name means 127.0.1.1."""
    if reason := why_there_are_no_namespaces():
        pytest.skip(f"two nodes on one machine: {reason}")
    usual = "127.0.0.1 localhost\n"
    made = Nodes(tmp_path, (f"{usual}127.0.1.1 node0\n", f"{usual}127.0.1.1 node1\n{NETWORK}.1 node0\n"))
    yield made
    made.end()


def test_two_nodes_train_whose_names_mean_themselves(nodes: Nodes, master: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    place = Place(tmp_path, variables={VARIABLE: "<unset>"})
    processes = []
    for node in range(2):
        launch = (
            f"--nnodes=2 --nproc-per-node=1 --node-rank={node} --master-addr={master} --master-port={port}"
        )
        command = [sys.executable, "-m", "isc_runtime", "torchrun", *launch.split(), str(SCRIPT), "agree"]
        processes.append(
            subprocess.Popen(
                [*nodes.on(node), "env", "-C", str(tmp_path), *command],
                env=place.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    assert re.findall(r"rank \d agrees", "".join(said)) == ["rank 0 agrees", "rank 1 agrees"]
