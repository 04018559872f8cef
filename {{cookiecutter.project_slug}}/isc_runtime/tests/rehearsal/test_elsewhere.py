"""What a training uses here that a node of the ISC does not have, and what it writes that is lost there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isc_runtime.rehearsal.cycle import Cycle
from isc_runtime.rehearsal.elsewhere import judge_elsewhere
from isc_runtime.rehearsal.trace import FILES_VARIABLE, FOLDER_VARIABLE, STARTUP, Trace

USES = """
import os, pathlib, shutil, socket, sqlite3, sys
home = pathlib.Path(sys.argv[1])
(home / "plain" / "data.csv").read_text()
(home / ".cache" / "weights.pt").read_bytes()
(home / ".cache" / "fonts.json").read_text()
(home / "data" / "one").read_text()
(home / "data" / "link").read_text()
(home / "own" / "code.py").read_text()
pathlib.Path(os.__file__).read_text()
open("/etc/hostname" if os.path.exists("/etc/hostname") else os.__file__).close()
if os.fork():
    assert os.wait()[1] == 0
else:  # as a worker that loads data
    (home / "data" / "linked" / "index").write_text("")
    os._exit(0)
sqlite3.connect(home / "plain" / "state.db").execute("create table if not exists seen (step)")
for host in (None, "localhost", "127.0.0.1", socket.gethostname(), "192.0.2.1"):
    sys.audit("socket.getaddrinfo", host, 9, 0, 0, 0)  # as it does, without waiting for a network
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("plain/data.csv", ".cache/weights.pt", ".cache/fonts.json", "data/one", "own/code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(2**20 if name.endswith(".pt") else 2))
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "plain")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "plain" / "blob")
    (tmp_path / "plain" / "blob").write_text("")
    return tmp_path


def uses(home: Path, number: int, since: float) -> Cycle:
    """A cycle of a rehearsal since then, in which a rank did what is above."""
    traces = home / f"traces{number}"
    traces.mkdir()
    heard = [since, [str(home / "own")], [str(home / "data")]]
    variables = {FOLDER_VARIABLE: str(traces), FILES_VARIABLE: json.dumps(heard), "HOME": str(home)}
    variables |= {"RANK": "0", "LOCAL_RANK": "0", "PYTHONPATH": str(STARTUP)}
    subprocess.run([sys.executable, "-c", USES, str(home)], env={**os.environ, **variables}, check=True)
    trace = Trace(traces)
    trace.read()
    return Cycle(f"cycle {number}", 1, 1, home, trace, [])


def test_what_a_node_does_not_have(home: Path) -> None:
    cycle = uses(home, 0, time.time())
    cycle.left = ["best.pt"]
    found = list(judge_elsewhere([cycle], home / "data"))
    assert [finding.severity for finding in found] == ["warning"] * 4
    needs, asked, to_data, left = (finding.what for finding in found)
    assert f"reads {home}/plain/data.csv (and 1 more), of this machine" in needs
    assert list(cycle.trace.ranks[0].needs) == [f"{home}/plain/data.csv", f"{home}/.cache/weights.pt"]
    assert "connects to 192.0.2.1:" in asked
    assert f"writes {home}/data/linked/index: the datasets are read-only" in to_data
    assert "leaves best.pt in the project's folder" in left


def test_what_sqlite_keeps_is_told(home: Path) -> None:
    since = time.time()
    first, second = (uses(home, number, since).trace.ranks[0] for number in (1, 2))
    file = str(home / "plain" / "state.db")
    assert (file in first.wrote, file in first.read_files) == (True, False)
    assert file in second.read_files


def test_a_training_that_uses_nothing_of_it(tmp_path: Path) -> None:
    assert list(judge_elsewhere([Cycle("cycle 1", 1, 1, tmp_path, Trace(tmp_path), [])], Path("/data"))) == []
