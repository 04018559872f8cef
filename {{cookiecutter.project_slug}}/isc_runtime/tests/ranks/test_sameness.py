"""Ranks that would train something else than the others do not begin."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.ranks import sameness
from isc_runtime.ranks.group import process_group
from isc_runtime.ranks.reporting import reported
from isc_runtime.ranks.sameness import check_same, describe, differences, python_files
from isc_runtime.tests.processes import Ended, run_forked

COMMAND = ["--learning-rate", "3e-3", "--seed=1", "--no-amp"]


def run(directory: Path, change: Callable[[Path], None] = lambda project: None) -> list[Ended]:
    """Two ranks, each with a project of its own, of which that of rank 1 is changed."""

    def work() -> None:
        environment = Environment.read()
        project = directory / f"node{environment.rank}"
        (project / "deep").mkdir(parents=True)
        for name in ("train.py", "model.py", "deep/more.py"):
            (project / name).write_text(f"# {name}\n")
        sys.argv = [str(project / "train.py"), *COMMAND, "--data-root", str(project)]
        if environment.rank == 1:
            change(project)
        with reported(), process_group(environment, 60, 60) as group:
            check_same(group)
            print("they are the same")

    return run_forked(directory, work)


def test_nodes_that_are_the_same_begin(tmp_path: Path) -> None:
    """Where the data are may differ."""
    for one in run(tmp_path):
        assert one.code == 0, one.output
        assert "they are the same" in one.output


def other_rate(project: Path) -> None:
    sys.argv[2] = "3e-1"


def other_seed(project: Path) -> None:
    sys.argv[3] = "--seed=2"


def other_log(project: Path) -> None:
    """All ranks add up for a line of it: one that has none would let the others wait."""
    sys.argv += ["--log-steps", "1"]


def other_settings(project: Path) -> None:
    (project / "train.toml").write_text("weight-decay = 0.1\n")


def other_switch(project: Path) -> None:
    sys.argv.remove("--no-amp")


def other_code(project: Path) -> None:
    (project / "model.py").write_text("# changed\n")


def code_that_is_not_there(project: Path) -> None:
    (project / "deep" / "more.py").unlink()


def other_torch(project: Path) -> None:
    sameness.torch.__version__ = "1.0"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_rate, "--learning-rate: 3e-1 here, 3e-3 there"),
        (other_log, "--log-steps"),
        (other_seed, "--seed: 2 here, 1 there"),
        (other_switch, "--no-amp: not given here, given there"),
        (other_settings, "--weight-decay: 0.1 here, not given there"),
        (other_code, "the content of model.py"),
        (code_that_is_not_there, "the content of deep/more.py (not here)"),
        (other_torch, f"torch: 1.0 here, {torch.__version__} there"),
    ],
)
def test_what_differs_is_named_with_its_node(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    ended = run(tmp_path, change)
    assert [one.code for one in ended] == [ExitCode.UNFIT] * 2, ended
    expected = f"ERROR: rank 1 on {os.uname().nodename}: This rank runs something else than rank 0: {said}"
    assert expected in ended[1].output
    assert f"node 0 on {os.uname().nodename}. Give all nodes the same command" in ended[1].output


def test_a_file_that_the_command_names_counts_with_its_content(tmp_path: Path) -> None:
    described = []
    for number in (1, 2):
        (tmp_path / "settings.yaml").write_text(f"rate: {number}")
        described.append(describe(tmp_path / "train.py", ["--config", str(tmp_path / "settings.yaml")]))
    assert differences(*described) == ["the content of settings.yaml"]


def test_a_node_may_have_the_project_elsewhere(tmp_path: Path) -> None:
    described = []
    for node in ("0", "1"):
        project = tmp_path / node / "project"
        project.mkdir(parents=True)
        (project / "settings.yaml").write_text("rate: 1")
        described.append(describe(project / "train.py", ["--config", f"{project}/settings.yaml", "--out=/a"]))
    assert differences(*described) == []
    other = describe(tmp_path / "train.py", ["--config", f"{tmp_path}/settings.yaml", "--out=/b"])
    assert any("--out: /b here, /a there" in what for what in differences(other, described[0]))


def test_a_virtual_environment_and_checkpoints_are_no_code(tmp_path: Path) -> None:
    for name in ("train.py", "venv/x.py", "checkpoints/y.py", ".git/z.py", "part/of_it.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    found = [str(file.relative_to(tmp_path)) for file in python_files(tmp_path)]
    assert found == ["train.py", "part/of_it.py"]
