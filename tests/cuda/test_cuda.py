"""The project's training on a GPU: exact over a kill, without a wait in a step, and stopped with its code."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from conftest import PROJECT
from isc_runtime.environment import DEVICE, Environment
from isc_runtime.errors import ExitCode
from isc_runtime.ranks.determinism import set_determinism
from isc_runtime.ranks.group import Group
from isc_runtime.ranks.self_test import check_devices
from isc_runtime.tests.processes import Place, differences, rest_of, wait_for
from isc_runtime.training.batches import to_device
from isc_runtime.training.means import Totals

SCRIPT = PROJECT / "train.py"
ARGUMENTS = ("--epochs", "3", "--save-steps", "5", "--log-steps", "1", "--device", "cuda")
GPU = torch.device("cuda", 0)


def place(directory: Path) -> Place:
    directory.mkdir(exist_ok=True)
    return Place(directory, script=SCRIPT, variables={DEVICE: "cuda"})


@pytest.mark.parametrize("more", [(), ("--model", "transformer"), ("--compile", "--model", "transformer")])
def test_a_killed_training_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    whole, killed = place(tmp_path / "whole"), place(tmp_path / "killed")
    ended = whole.run(*ARGUMENTS, *more)
    assert ended.code == 0, ended.output
    assert "Training on 1 x cuda:0" in ended.output
    process = killed.start(*ARGUMENTS, *more)
    wait_for(process, "step 23:")
    process.kill()
    rest_of(process)
    resumed = killed.run(*ARGUMENTS, *more)
    assert "Resumed from" in resumed.output
    assert differences(whole.newest(), killed.newest()) == []


def test_sigterm_saves_and_ends_with_its_code(tmp_path: Path) -> None:
    process = place(tmp_path).start(*ARGUMENTS)
    wait_for(process, "step 9:")
    process.send_signal(signal.SIGTERM)
    assert "Stopped by signal 15" in rest_of(process)
    assert process.returncode == 128 + signal.SIGTERM


def test_each_device_passes_its_self_test() -> None:
    for number in range(torch.cuda.device_count()):
        check_devices(Group(Environment(), torch.device("cuda", number)))


def test_more_ranks_than_gpus_are_refused(tmp_path: Path) -> None:
    ranks = torch.cuda.device_count() + 1
    ended = place(tmp_path).run(*ARGUMENTS, ranks=ranks)
    assert ended.code == ExitCode.UNFIT, ended.output
    assert "no GPU for this rank" in ended.output


def test_between_two_log_lines_a_step_waits_for_nothing() -> None:
    import train

    set_determinism(True)
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
