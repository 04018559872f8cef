"""What several ranks must do alike: resume on another number of them, and skip what is not finite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import model
import ranks
import train
from isc_runtime.errors import ExitCode
from isc_runtime.sampler import ElasticSampler
from isc_runtime.tests.processes import differences

ARGUMENTS = ("--batch-size", "24", "--log-steps", "1", "--save-steps", "4", "--sync-save")


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 3, 2, 1), (2, 4, 1, 3), (3, 1, 4, 2)])
def test_a_training_goes_on_with_another_number_of_ranks(order: tuple[int, ...], tmp_path: Path) -> None:
    """Each run but the last is stopped within the epoch; together they see all samples, few of them twice."""
    for number, world_size in enumerate((*order, order[0])):
        is_last = number == len(order)
        stop_after = 1000 if is_last else 4 * (number + 1)

        def arrange(rank: int, number: int = number, stop_after: int = stop_after) -> None:
            note_samples(tmp_path / f"seen-{number}-{rank}", stop_after)

        codes = ranks.start(tmp_path, *ARGUMENTS, "--epochs", "1", ranks=world_size, before=arrange).wait()
        if is_last:
            assert codes == [0] * world_size
        else:  # the plug is pulled by an exception; a rank that has not come to it yet hears of the others'
            assert ExitCode.FAILED in codes
            assert set(codes) <= {ExitCode.FAILED, ExitCode.PEER}
    log = (tmp_path / "rank0.txt").read_text()
    resumed = [int(step) for step in re.findall(r"Resumed from .*: step (\d+)", log)]
    assert resumed == [4, 8, 12, 16]
    seen = [int(sample) for file in tmp_path.glob("seen-*") for sample in file.read_text().split()]
    assert set(seen) == set(range(1437))
    assert len(seen) - 1437 < order[0]  # the last batch of an epoch is filled up


def note_samples(file: Path, stop_after: int) -> None:
    """Writes down the samples that are trained on. Ends the training with an error after so many steps."""
    iterate, advance = ElasticSampler.__iter__, ElasticSampler.advance
    batches: list[list[int]] = []

    def noted(sampler: ElasticSampler) -> Iterator[list[int]]:
        for batch in iterate(sampler):
            batches.append(batch)
            yield batch

    def counted(sampler: ElasticSampler) -> None:
        if sampler.progress.step == stop_after:
            raise RuntimeError("the plug")
        with file.open("a") as stream:
            print(*batches[-1], file=stream)
        advance(sampler)

    setattr(ElasticSampler, "__iter__", noted)  # noqa: B010  # mypy knows no other way
    setattr(ElasticSampler, "advance", counted)  # noqa: B010


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(
    rank: int, parallelism: str, tmp_path: Path
) -> None:
    arguments = (*ARGUMENTS, "--epochs", "1", "--parallelism", parallelism)
    training = ranks.start(
        tmp_path, *arguments, ranks=2, before=lambda own: spoil(7, 1) if own == rank else None
    )
    assert training.wait() == [0, 0], training.story
    assert training.log.count("step 7 is skipped") == 1
    assert training.log.count("is skipped") == 1
    state = ranks.final_state(tmp_path)
    assert state["metrics"]["skipped"] == 1
    assert all(weight.isfinite().all() for weight in state["model"].values())


@pytest.mark.parametrize("rank", [0, 1])
def test_several_in_a_row_stop_all_ranks(rank: int, tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--epochs", "1", "--max-skipped", "3")
    training = ranks.start(
        tmp_path, *arguments, ranks=2, before=lambda own: spoil(7, 99) if own == rank else None
    )
    assert training.wait() == [ExitCode.DIVERGED] * 2, training.story
    said = training.log + training.output(1)  # all know it; the first one says it
    assert said.count("3 steps in a row were not finite: step ") == 1


def spoil(first: int, count: int) -> None:
    """Makes the loss of `count` batches NaN, from the `first` on."""
    cross_entropy, calls = torch.nn.functional.cross_entropy, [0]
    first_loss = train.Trainer.first_loss

    def uncounted(trainer: train.Trainer, model: torch.nn.Module) -> torch.Tensor:
        loss, calls[0] = first_loss(trainer, model), 0  # no step: DistributedDataParallel asks for it
        return loss

    setattr(train.Trainer, "first_loss", uncounted)  # noqa: B010

    def spoiled(*arguments: Any, **options: Any) -> torch.Tensor:
        calls[0] += 1
        loss: torch.Tensor = cross_entropy(*arguments, **options)
        return loss * float("nan") if first <= calls[0] < first + count else loss

    setattr(model, "cross_entropy", spoiled)  # noqa: B010


def test_four_ranks_resume_bit_identically(tmp_path: Path) -> None:
    """With more than two summands the order counts in which gradients are added; it stays the same."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for directory in (whole, parts):
        directory.mkdir()
    ranks.run(whole, *ARGUMENTS, "--epochs", "2", ranks=4)
    arrange = lambda rank: note_samples(parts / f"seen-{rank}", 9)  # noqa: E731
    ranks.start(parts, *ARGUMENTS, "--epochs", "2", ranks=4, before=arrange).wait()
    ranks.run(parts, *ARGUMENTS, "--epochs", "2", ranks=4)
    assert differences(ranks.final_state(parts), ranks.final_state(whole)) == []
