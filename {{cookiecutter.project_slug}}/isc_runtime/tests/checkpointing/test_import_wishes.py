"""What is asked of an import is done, or refused; it is never passed over."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from isc_runtime.checkpointing import importing
from isc_runtime.checkpointing.importing import Wishes, import_checkpoint
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.small_training import Network


def saved(file: Path, prefix: str = "", **more: Any) -> Path:
    weights = {f"{prefix}{name}": value for name, value in Network().state_dict().items()}
    torch.save({"model": weights, **more}, file)
    return file


@pytest.mark.parametrize("name", ["step", "epoch", "batch", "samples"])
def test_a_number_that_no_checkpoint_holds_is_refused(tmp_path: Path, name: str) -> None:
    """It was written, called good, and was damaged for the start that should go on from it."""
    numbers = {"step": 1, "samples": 1, name: 10**30}
    with pytest.raises(IscError, match=f"is too large: --{name}") as raised:
        import_checkpoint(saved(tmp_path / "old.pt"), tmp_path / "new", False, Wishes(numbers=numbers))
    assert raised.value.exit_code is ExitCode.USAGE
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 10**30, torch.tensor(math.nan), 1.5, True])
def test_what_is_no_number_of_steps_counts_as_none(tmp_path: Path, value: object) -> None:
    file = saved(tmp_path / "old.pt", step=value, epoch=value, optimizer={"state": {0: {"step": value}}})
    with pytest.raises(IscError, match="does not say its step"):
        import_checkpoint(file, tmp_path / "new", False, Wishes())


def test_half_an_epoch_is_said(tmp_path: Path) -> None:
    """transformers counts 1.4 epochs: the second one begins anew, and is not done."""
    done = import_checkpoint(saved(tmp_path / "old.pt", step=7, epoch=1.4), tmp_path / "new", False, Wishes())
    said = "\n".join(done.notes)
    assert "Epoch 1: as its 'epoch' says." in said
    assert "in the middle of an epoch (40% of it done), which begins anew; --batch and --samples" in said
    assert "--epoch 2" not in said


def holds_itself() -> dict[str, Any]:
    state: dict[str, Any] = {"state": {}, "param_groups": []}
    state["again"] = state
    return state


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"model": {"sparse": torch.eye(3).to_sparse()}}, "model.sparse is a sparse tensor"),
        ({"model": {0: torch.eye(3), 1: torch.eye(3)}}, "0 is no name of a weight"),
        ({"optimizer": holds_itself()}, "nested too deep, or holds itself"),
    ],
)
def test_what_no_checkpoint_can_hold_is_one_sentence(
    tmp_path: Path, more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(IscError, match=expected) as raised:
        import_checkpoint(
            saved(tmp_path / "old.pt", **{"step": 3, **more}), tmp_path / "new", False, Wishes()
        )
    assert raised.value.exit_code is ExitCode.CHECKPOINT
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("prefix", "strip"), [("net.", "net."), ("module.net.", "module.net."), ("module.net.", "net.")]
)
def test_a_prefix_is_said_as_the_file_or_the_model_has_it(tmp_path: Path, prefix: str, strip: str) -> None:
    file = saved(tmp_path / "old.pt", prefix, step=3)
    done = import_checkpoint(file, tmp_path / "new", False, Wishes(strip=strip))
    assert torch.load(done.path, weights_only=True)["model"].keys() == Network().state_dict().keys()


def test_a_prefix_that_the_names_do_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IscError, match=r"begin with 'nte\.': .*They are net\."):
        import_checkpoint(
            saved(tmp_path / "old.pt", "net.", step=3), tmp_path / "new", False, Wishes(strip="nte.")
        )


def test_whoever_waits_for_a_directory_looks_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: the second one has waited for the lock of the first one."""
    file, target = saved(tmp_path / "old.pt", step=3), tmp_path / "new"

    def opened(directory: Path, group: Group) -> LocalStore:
        monkeypatch.setattr(importing, "LocalStore", LocalStore)
        import_checkpoint(file, target, False, Wishes())
        return LocalStore(directory, group)

    monkeypatch.setattr(importing, "LocalStore", opened)
    with pytest.raises(IscError, match="There is a good checkpoint of this project here"):
        import_checkpoint(file, target, False, Wishes())
    assert len(list(target.glob("checkpoint_*.pth"))) == 1
