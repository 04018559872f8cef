"""A training begins with weights of another one, all of them or what fits, and only when it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from isc_runtime.errors import ExitCode
from isc_runtime.tests.processes import Place, run_forked
from isc_runtime.tests.small_training import Network


def other(seed: int = 9) -> Network:
    torch.manual_seed(seed)
    return Network()


def first_loss(output: str) -> str:
    return next(line for line in output.splitlines() if "step 1: loss" in line).partition(" - INFO")[2]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint of another program", "own"])
def test_it_begins_with_them_and_later_goes_on(tmp_path: Path, ranks: int, kind: str) -> None:
    file, place = tmp_path / "weights.pt", Place(tmp_path)
    if kind == "own":
        (tmp_path / "earlier").mkdir()
        earlier = Place(tmp_path / "earlier")
        assert earlier.train("--epochs", "1", "--parallelism", "fsdp", ranks=ranks).code == 0
        file = earlier.checkpoints
    elif kind == "safetensors":
        save_file(other().state_dict(), file)
    else:
        weights = {f"module.{name}": value for name, value in other().state_dict().items()}
        torch.save(weights if kind == "state dict" else {"model": weights, "epoch": 3}, file)
    init = ("--init-from", str(file))
    ended = place.train("--epochs", "1", *init, ranks=ranks)
    assert ended.code == 0, ended.output
    assert f"[INIT] The training begins with the weights in {file}\n" in ended.output
    assert ended.steps(": loss")[0] == 1
    fresh = Place(tmp_path / "fresh")
    fresh.path.mkdir()
    without = fresh.train("--epochs", "1", ranks=ranks)
    assert first_loss(ended.output) != first_loss(without.output)
    again = place.train("--epochs", "2", *init, ranks=ranks)
    assert again.code == 0, again.output
    assert "--init-from is not used" in again.output
    assert again.steps("Resumed from") == ended.steps("[COMPLETE]")[-1:]


def test_a_sharded_model_gets_its_shards(tmp_path: Path) -> None:
    file, losses = tmp_path / "weights.pt", []
    torch.save(other().state_dict(), file)
    for parallelism in ("ddp", "fsdp"):
        place = Place(tmp_path / parallelism)
        place.path.mkdir()
        ended = place.train("--epochs", "1", "--init-from", str(file), "--parallelism", parallelism, ranks=2)
        assert ended.code == 0, ended.output
        losses.append(first_loss(ended.output))
    assert losses[0] == losses[1]


def weights_but_for(change: str) -> dict[str, Any]:
    weights: dict[str, Any] = dict(other().state_dict())
    if change == "missing":
        del weights["first.weight"]
    elif change == "unexpected":
        weights["head.weight"] = torch.ones(1)
    else:
        weights["last.weight"] = torch.ones(7, 32)
    return weights


CASES = {
    "missing": "missing: first.weight",
    "unexpected": "unexpected: head.weight",
    "shape": "of another shape: last.weight",
}


@pytest.mark.parametrize("change", CASES)
def test_what_does_not_fit_is_named_and_refused_unless_part_is_enough(tmp_path: Path, change: str) -> None:
    file, place = tmp_path / "weights.pt", Place(tmp_path)
    torch.save(weights_but_for(change), file)
    refused = place.train("--epochs", "1", "--init-from", str(file))
    assert refused.code == ExitCode.CHECKPOINT, refused.output
    assert f"The weights do not fit the model ({CASES[change]})" in refused.output
    assert str(file) in refused.output
    assert "--init-partly" in refused.output
    assert "Traceback" not in refused.output
    ended = place.train("--epochs", "1", "--init-from", str(file), "--init-partly")
    assert ended.code == 0, ended.output
    assert f", but for what is {CASES[change]}\n" in ended.output


def test_what_fits_nowhere_is_refused_all_the_same(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt")
    ended = Place(tmp_path).train("--init-from", str(tmp_path / "weights.pt"), "--init-partly")
    assert ended.code == ExitCode.CHECKPOINT
    assert "unexpected: a" in ended.output


@pytest.mark.parametrize(("name", "words"), [("absent.pt", "There is no"), ("text.pt", "cannot be read")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "text.pt").write_text("something")
    ended = Place(tmp_path).train("--init-from", str(tmp_path / name))
    assert ended.code == ExitCode.CHECKPOINT, ended.output
    assert words in ended.output
    assert name in ended.output
    assert "Traceback" not in ended.output


def test_nodes_with_other_files_are_told(tmp_path: Path) -> None:
    """Each rank in a folder of its own, as on nodes that share only the checkpoints."""
    from isc_runtime.checkpointing.initial import begin_with
    from isc_runtime.environment import Environment
    from isc_runtime.ranks.group import process_group
    from isc_runtime.ranks.reporting import reported

    def work() -> None:
        with reported(), process_group(Environment.read(), 60, 60) as group:
            torch.save(other(group.rank).state_dict(), tmp_path / f"{group.rank}.pt")
            begin_with(tmp_path / f"{group.rank}.pt", {"model": Network()}, False, group)

    ends = run_forked(tmp_path, work)
    assert [ended.code for ended in ends] == [ExitCode.CHECKPOINT] * 2, ends
    assert any("The nodes do not see the same file" in ended.output for ended in ends)
