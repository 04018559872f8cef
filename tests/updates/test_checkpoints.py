"""What 0.1.0 saved is resumed, and the training ends as if 0.1.0 had gone on: bit for bit."""

from __future__ import annotations

import shutil
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from history import train, unpack
from isc_runtime.tests.cycling_utils_choice import python_path_for_children
from isc_runtime.tests.processes import differences

STEP = 19  # amidst the second epoch: there are 15 batches in each
ARGUMENTS = ("--epochs", "2", "--save-steps", "4", "--keep-checkpoints", "0")
SHARDED = ("--parallelism", "fsdp", "--model", "transformer")


@dataclass(frozen=True)
class Case:
    """A way in which 0.1.0 saved: by which state of it, where, on how many ranks."""

    state: str
    isc_mode: bool
    ranks: int
    arguments: tuple[str, ...] = ()

    def train(self, project: Path, directory: Path) -> str:
        arguments = (*ARGUMENTS, "--batch-size", str(96 // self.ranks), *self.arguments)
        path = ":".join(python_path_for_children())
        return train(project, directory, *arguments, ranks=self.ranks, isc_mode=self.isc_mode, path=path)


CASES = {
    "local": Case("0.1.0", isc_mode=False, ranks=1),
    "artifact": Case("0.1.0", isc_mode=True, ranks=2),
    "local, last": Case("0.1.0-last", isc_mode=False, ranks=2),
    "artifact, last": Case("0.1.0-last", isc_mode=True, ranks=1),
    "sharded local": Case("0.1.0-last", isc_mode=False, ranks=2, arguments=SHARDED),
    "sharded artifact": Case("0.1.0-last", isc_mode=True, ranks=2, arguments=SHARDED),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_checkpoint_of_0_1_0_goes_on_as_in_0_1_0(case: Case, project: Path, tmp_path: Path) -> None:
    """Compared with the run of 0.1.0 that made it, which went on to its end."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    case.train(unpack(case.state, tmp_path) / "project", whole)
    keep_only(STEP, whole / "checkpoints", resumed / "checkpoints")
    log = case.train(project, resumed)
    assert f": step {STEP}, epoch 1, batch 4" in log, log
    assert "aside" not in log
    assert "[RESUME]" not in log, "no setting is another than that of the checkpoint"
    assert differences(final_state(resumed), final_state(whole)) == []


def keep_only(step: int, checkpoints: Path, to: Path) -> None:
    """Copies the checkpoint of one step, and not the link: as if a kill had come between the two."""
    to.mkdir(parents=True)
    for path in checkpoints.iterdir():
        payload = path / "checkpoint.pt" if path.is_dir() else path
        if path.is_symlink() or payload.suffix not in (".pt", ".pth"):
            continue
        if torch.load(payload, weights_only=True)["sampler"]["step"] == step:
            for part in {path, path.with_suffix(".manifest.json")} if path.is_file() else {path}:
                (shutil.copytree if part.is_dir() else shutil.copy)(part, to / part.name)
    assert any(to.iterdir())


def final_state(directory: Path) -> dict[str, Any]:
    """The state in the newest checkpoint, with whole tensors and the random numbers as bytes."""
    links = ("resume.pth", "AtomicDirectory.latest_checkpoint")
    (link,) = (path for name in links if (path := directory / "checkpoints" / name).is_symlink())
    newest = link.resolve()
    file = newest / "checkpoint.pt" if newest.is_dir() else newest
    state: dict[str, Any] = torch.load(file, weights_only=True)
    if (file.parent / ".metadata").exists():
        dcp_to_torch_save(file.parent, directory / "whole.pt")
        state["shards"] = torch.load(directory / "whole.pt", weights_only=True)
        assert any(key.startswith("model.") for key in state["shards"]), "what was sharded is compared too"
        state["model"] = state["optimizer"]["state"] = None  # they say only where it is
    assert state["sampler"]["epoch"] == 2
    state["rng"] = [random_numbers(each) for each in state["rng"]]
    return state


def random_numbers(state: dict[str, Any]) -> list[bytes]:
    """The generators of a rank, which 0.1.0 saved as numbers at first, and as bytes later."""
    key, tensor = state["numpy"]["state"]["key"], state["torch"]
    return [
        array("I", state["python"][1]).tobytes(),
        array("I", key).tobytes(),
        tensor.numpy().tobytes() if isinstance(tensor, torch.Tensor) else tensor,
    ]
