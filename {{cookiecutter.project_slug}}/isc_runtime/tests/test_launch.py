"""launch.sh, really run: what it checks, what it starts, and that no failure gets lost."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from isc_runtime.__main__ import main
from isc_runtime.errors import ExitCode
from isc_runtime.tests.processes import PROJECT, copy_of_the_runtime

VARIABLES = {
    "NNODES": "2",
    "N_PROC": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "NODE_RANK": "1",
}
# A python that says how it was called, and ends with one code as preflight and with another as torchrun.
FAKE = """#!/bin/sh
[ "$1" = -m ] && { printf "in %s:" "$PWD"; printf " <%s>" "$@"; echo; }
[ "$3" = torchrun ] && exit TRAINED
exit CHECKED
"""


@dataclass
class Node:
    """A machine on which a python that only says how it was called takes the place of the real one.

    Attributes:
        path: its directory; launch.sh is started there.
        variables: all of the environment.
    """

    path: Path
    variables: dict[str, str]

    @property
    def venv(self) -> Path:
        return self.path / "a venv"

    def install(self, checked: int = 0, trained: int = 0, text: str = FAKE) -> None:
        program = self.venv / "bin" / "python"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text.replace("CHECKED", str(checked)).replace("TRAINED", str(trained)))
        program.chmod(0o755)

    def launch(
        self, *arguments: str, script: Path = PROJECT / "launch.sh"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(script), *arguments],
            cwd=self.path,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path, {})
    node.variables = {**VARIABLES, "PATH": os.defpath, "VENV": str(node.venv)}
    node.install()
    return node


def test_preflight_and_then_torchrun_from_any_directory(node: Node) -> None:
    ended = node.launch("--dataset-id", "a b", "--epochs=*", "")
    assert ended.returncode == 0, ended.stderr
    preflight, torchrun = ended.stdout.splitlines()
    assert preflight == (f"in {PROJECT}: <-m> <isc_runtime> <preflight> <--dataset-id> <a b> <--epochs=*> <>")
    assert torchrun == (
        f"in {PROJECT}: <-m> <isc_runtime> <torchrun> <--nnodes> <2> <--nproc-per-node> <4> <--node-rank> <1>"
        " <--master-addr> <10.0.0.1> <--master-port> <29500>"
        " <--signals-to-handle> <SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1>"
        " <train.py> <--dataset-id> <a b> <--epochs=*> <>"
    )


def test_a_relative_path_to_it_will_do(node: Node) -> None:
    folder = node.path / "some project"
    folder.mkdir()
    shutil.copy(PROJECT / "launch.sh", folder)
    (node.path / "elsewhere" / folder.name).mkdir(parents=True)
    node.variables["CDPATH"] = str(node.path / "elsewhere")  # where `cd` would look first
    ended = node.launch(script=Path(folder.name) / "launch.sh")
    assert ended.returncode == 0, ended.stderr
    assert f"in {folder}: <-m> <isc_runtime> <torchrun>" in ended.stdout


@pytest.mark.parametrize("missing", [["NNODES"], ["NODE_RANK", "MASTER_ADDR"], list(VARIABLES)])
def test_all_missing_variables_are_named_at_once(node: Node, missing: list[str]) -> None:
    for name in missing:
        del node.variables[name]
    ended = node.launch()
    assert ended.returncode == ExitCode.UNFIT
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    named = ", ".join(name for name in VARIABLES if name in missing)
    assert line.startswith(f"ERROR: Environment variables are not set: {named}. ")
    assert "The ISC sets them on every node" in line
    assert "python train.py" in line


def test_an_empty_variable_is_missing(node: Node) -> None:
    node.variables["N_PROC"] = ""
    ended = node.launch()
    assert ended.returncode == ExitCode.UNFIT
    assert "not set: N_PROC." in ended.stderr


@pytest.mark.parametrize("code", [1, 3, 4, 130])
def test_a_failed_preflight_ends_it_with_its_code(node: Node, code: int) -> None:
    node.install(checked=code)
    ended = node.launch()
    assert ended.returncode == code
    assert "preflight" in ended.stdout
    assert "torchrun" not in ended.stdout


@pytest.mark.parametrize("code", [1, 7, 143])
def test_a_failed_training_ends_it_with_its_code(node: Node, code: int) -> None:
    node.install(trained=code)
    assert node.launch().returncode == code


def test_signals_reach_torchrun_itself(node: Node) -> None:
    """It takes the place of the shell, which would not pass them on."""
    node.install(text='#!/bin/sh\n[ "$3" = torchrun ] && kill -TERM $$\nexit 0\n')
    assert node.launch().returncode == -15


def test_the_active_environment_is_used_without_venv(node: Node) -> None:
    node.variables["VIRTUAL_ENV"] = node.variables.pop("VENV")
    ended = node.launch()
    assert ended.returncode == 0, ended.stderr


def test_a_python_with_torch_in_the_path_will_do(node: Node) -> None:
    node.variables["PATH"] = f"{node.venv / 'bin'}{os.pathsep}{node.variables['PATH']}"
    node.variables["VIRTUAL_ENV"] = str(node.path / "none")
    del node.variables["VENV"]
    ended = node.launch()  # the fake one says yes to everything, also that it has torch
    assert ended.returncode == 0, ended.stderr
    node.install(text=f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')  # no site-packages: no torch
    assert node.launch().returncode == ExitCode.UNFIT


@pytest.mark.parametrize("variable", ["VENV", "VIRTUAL_ENV"])
def test_an_environment_without_python_is_an_error(node: Node, variable: str) -> None:
    node.install(checked=1)  # first in PATH, it says no to everything, also that it has torch
    node.variables["PATH"] = f"{node.venv / 'bin'}{os.pathsep}{node.variables['PATH']}"
    del node.variables["VENV"]
    node.variables[variable] = str(node.path / "none")
    ended = node.launch()
    assert ended.returncode == ExitCode.UNFIT
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"ERROR: No Python in this virtual environment: {node.path / 'none'}. ")
    assert "set VENV" in line


def really(node: Node, **variables: str) -> Path:
    """Gives a node the real python and a copy of the runtime; returns its launch.sh."""
    node.install(text=f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    node.variables |= {"NNODES": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", **variables}
    return copy_of_the_runtime(node.path / "project") / "launch.sh"


@pytest.mark.parametrize(
    "variables",
    [
        {"NODE_RANK": "5", "NNODES": "2"},
        {"NNODES": "0"},
        {"N_PROC": "x"},
        {"MASTER_PORT": "http"},
        {"MASTER_ADDR": "node-0.invalid"},
    ],
)
def test_a_variable_that_cannot_be_true_ends_it_before_torch(node: Node, variables: dict[str, str]) -> None:
    script = really(node, **variables)
    begun = time.monotonic()
    ended = node.launch("--first-timeout", "20", script=script)
    assert ended.returncode == ExitCode.UNFIT, ended
    (line,) = ended.stderr.splitlines()
    name, value = next(iter(variables.items()))
    assert f"{name}={value}" in line
    assert re.search(rf"node {node.variables['NODE_RANK']} (of \d+ )?on {socket.gethostname()}", line)
    assert time.monotonic() - begun < 40


def test_a_port_that_is_taken_ends_it_before_torch(node: Node) -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = node.launch(script=really(node, MASTER_PORT=port))
    assert ended.returncode == ExitCode.UNFIT, ended
    (line,) = ended.stderr.splitlines()
    assert f"MASTER_PORT={port}" in line
    assert f"node 0 of 1 on {socket.gethostname()}" in line


def test_a_node_that_does_not_come_is_named_within_the_first_timeout(node: Node) -> None:
    with socket.create_server(("", 0)) as free:
        port = str(free.getsockname()[1])
    ended = node.launch("--first-timeout", "2", script=really(node, NNODES="2", MASTER_PORT=port))
    assert ended.returncode == ExitCode.PEER, ended
    assert "Node 1 of 2 did not come within 2 s" in ended.stderr.splitlines()[-1]
    assert "torchrun" not in ended.stdout


def test_the_real_preflight_refuses_a_dataset_that_is_not_there(node: Node) -> None:
    project = really(node).parent
    ended = node.launch("--dataset-id", "none", "--data-root", str(node.path), script=project / "launch.sh")
    assert ended.returncode == ExitCode.DATA, ended.stderr
    assert f"There is no such dataset: {node.path / 'none'}" in ended.stderr
    assert "torchrun" not in ended.stdout


HOW = "input_artifact_id_list in experiment.isc has the id of its checkpoint artifact"


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        (0, "this experiment is complete."),
        (1, "this experiment has failed (exit code 1), and is not started again."),
        (10, "this experiment has failed (exit code 10), and is not started again."),
        (137, None),
        (143, None),
    ],
)
@pytest.mark.parametrize("isc_mode", [False, True])
def test_on_the_isc_whatever_ends_for_good_says_last_how_to_go_on(
    code: int,
    ended: str | None,
    isc_mode: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("isc_runtime.ranks.launching.launch.launch", lambda arguments: code)
    monkeypatch.delenv("LOSSY_ARTIFACT_PATH", raising=False)
    if isc_mode:
        monkeypatch.setenv("LOSSY_ARTIFACT_PATH", "/somewhere")
    assert main(["torchrun", "train.py"]) == code
    said = capsys.readouterr().err
    if isc_mode and ended is not None:
        assert ended in said
        assert HOW in said
    else:
        assert said == ""  # it is started again, or is there to be started again


def test_an_experiment_that_comes_back_to_a_place_that_is_not_fit_says_how_to_go_on(node: Node) -> None:
    node.install(text=f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    project = copy_of_the_runtime(node.path / "project")
    node.variables["LOSSY_ARTIFACT_PATH"] = str(node.path / "none")
    ended = node.launch(script=project / "launch.sh")
    assert ended.returncode == ExitCode.UNFIT
    assert HOW in ended.stderr
