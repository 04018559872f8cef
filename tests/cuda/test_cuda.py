"""The project's training on a GPU: exact over a kill, without a wait in a step, and stopped with its code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import PROJECT
from isc_runtime.environment import DEVICE, Environment
from isc_runtime.errors import ExitCode
from isc_runtime.ranks.determinism import set_determinism
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.self_test import check_devices
from isc_runtime.tests.processes import Place, differences, rest_of, wait_for
from isc_runtime.training.batches import to_device
from isc_runtime.training.means import Totals

SCRIPT, ONE_CARD = PROJECT / "train.py", Path(__file__).with_name("one_card.py")
HERE = "cuda" if torch.cuda.is_available() else "cpu"  # for what is true anywhere
ARGUMENTS = ("--epochs", "3", "--save-steps", "5", "--log-steps", "1", "--device", HERE)
GPU = torch.device("cuda", 0)


def place(directory: Path, script: Path = SCRIPT) -> Place:
    directory.mkdir(exist_ok=True)
    return Place(directory, script=script, variables={DEVICE: HERE})


SHARDED = ("--parallelism", "fsdp", "--model", "transformer")


@pytest.mark.parametrize(
    ("more", "ranks"),
    [
        ((), 1),
        (("--model", "transformer"), 1),
        (("--compile", "--model", "transformer"), 1),
        (("--workers", "2"), 1),
        pytest.param((), 2, marks=pytest.mark.gpus(2)),
        pytest.param(SHARDED, 2, marks=pytest.mark.gpus(2)),
    ],
)
def test_a_killed_training_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, more: tuple[str, ...], ranks: int
) -> None:
    whole, killed = place(tmp_path / "whole"), place(tmp_path / "killed")
    ended = whole.run(*ARGUMENTS, *more, ranks=ranks)
    assert ended.code == 0, ended.output
    assert f"Training on {ranks} x cuda:0" in ended.output
    process = killed.start(*ARGUMENTS, *more, ranks=ranks)
    wait_for(process, "step 23:")
    process.kill()
    rest_of(process)
    resumed = killed.run(*ARGUMENTS, *more, ranks=ranks)
    assert "Resumed from" in resumed.output
    assert differences(weights_of(whole), weights_of(killed)) == []


@pytest.mark.anywhere
@pytest.mark.parametrize("more", [(), SHARDED])
def test_two_ranks_on_one_card_are_exact(tmp_path: Path, more: tuple[str, ...]) -> None:
    """As above, with the group of ranks that a single GPU can have. (If gloo has no reduce_scatter of what is
    on a GPU, the sharded one cannot be had there: it says so itself.)
    """
    whole, killed = (place(tmp_path / name, ONE_CARD) for name in ("whole", "killed"))
    ended = whole.run(*ARGUMENTS, *more, ranks=2)
    assert ended.code == 0, ended.output
    assert f"Training on 2 x {HERE}" in ended.output
    process = killed.start(*ARGUMENTS, *more, ranks=2)
    wait_for(process, "step 23:")
    process.kill()
    rest_of(process)
    assert "Resumed from" in killed.run(*ARGUMENTS, *more, ranks=2).output
    assert differences(weights_of(whole), weights_of(killed)) == []


@pytest.mark.anywhere
def test_the_project_s_own_tests(project: Path) -> None:
    """Those of the training, its processes on the GPU; the one with two ranks needs two."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir=.",
        "-p",
        "no:cacheprovider",
    ]
    if torch.cuda.device_count() == 1:
        killed = "tests/test_train.py::test_a_killed_run_ends_as_if_it_had_not_been_killed"
        command += ["--deselect", f"{killed}[ISC, two ranks]"]
    environment = {**os.environ, DEVICE: HERE}
    ended = subprocess.run([*command, "tests"], cwd=project, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def weights_of(trained: Place) -> Any:
    """All of the newest checkpoint, or of a sharded one its weights."""
    newest = sorted(trained.checkpoints.glob("checkpoint_*"))[-1]
    if newest.is_file():
        return trained.newest()
    file = trained.path / "weights.safetensors"
    exported = [sys.executable, "-m", "isc_runtime", "export", str(newest), str(file)]
    subprocess.run(exported, cwd=trained.path, env=trained.environment(), check=True)
    return load_file(file)


def test_what_a_log_line_says_of_the_speed(tmp_path: Path) -> None:
    trained = place(tmp_path)
    ended = trained.run(*ARGUMENTS, "--flops", "1e15", "--profile-steps", "3")
    assert ended.code == 0, ended.output
    lines = [line for line in ended.output.splitlines() if "samples_per_second" in line]
    assert all(f" {name} " in lines[-1] for name in ("data_wait", "memory_gb", "mfu"))
    (trace,) = trained.logs.glob("profile_of_step_*.json")
    assert '"cat": "kernel"' in trace.read_text(), "the GPU's work is in it"


def test_sigterm_saves_and_ends_with_its_code(tmp_path: Path) -> None:
    process = place(tmp_path).start(*ARGUMENTS)
    wait_for(process, "step 9:")
    process.send_signal(signal.SIGTERM)
    assert "Stopped by signal 15" in rest_of(process)
    assert process.returncode == 128 + signal.SIGTERM


def test_each_device_passes_its_self_test() -> None:
    for number in range(torch.cuda.device_count()):
        check_devices(Group(Environment(), torch.device("cuda", number)))


LAUNCH_FILE = """isc_project_id = "prj-planted-name-260101"
experiment_name = "a rehearsal"
gpus = 1
compute_mode = "interruptible"
command = "bash /root/project/launch.sh"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The template as it stands, with a launch file: there may be no cookiecutter here."""
    copied = tmp_path / "project"
    leftovers = shutil.ignore_patterns("checkpoints", "runs", "rehearsals", "__pycache__", ".*cache", ".venv")
    shutil.copytree(PROJECT, copied, ignore=leftovers)
    (copied / "experiment.isc").write_text(LAUNCH_FILE)
    return copied


@pytest.mark.anywhere
def test_a_rehearsal(project: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "isc_runtime",
        "rehearse",
        "--stand-in",
        "--nodes",
        "1",
        "--procs-per-node",
    ]
    more = ["1", "--cycles", "1", "--", "--epochs", "2", "--save-steps", "5"]
    ended = subprocess.run([*command, *more], cwd=project, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    where = "GPUs, by NCCL" if HERE == "cuda" else "the CPU, by gloo"
    assert f"1 ranks on {where}" in ended.stdout
    assert "bit for bit those of an uninterrupted run" in ended.stdout


def test_more_ranks_than_gpus_are_refused(tmp_path: Path) -> None:
    ranks = torch.cuda.device_count() + 1
    ended = place(tmp_path).run(*ARGUMENTS, ranks=ranks)
    assert ended.code == ExitCode.UNFIT, ended.output
    assert "no GPU for this rank" in ended.output


def test_between_two_log_lines_a_step_waits_for_nothing(request: pytest.FixtureRequest) -> None:
    import train

    set_determinism(True)
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    trainer = train.Trainer(train.parse_arguments([]), Group(Environment(), GPU))
    batches, totals = iter(trainer.loader), Totals(trainer.group)
    for number in range(4):
        batch = to_device(next(batches), GPU)
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")  # the first ones make the state
        try:
            trainer.train_batch(batch, totals)
            trainer.sampler.advance()
            trainer.scheduler.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
