"""Where a training of this project was: an import takes what is left of it, and hides nothing of it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from isc_runtime.__main__ import main
from isc_runtime.checkpointing.importing import Wishes, good_checkpoint, import_checkpoint
from isc_runtime.checkpointing.on_disk.layout import ArtifactLayout, LocalLayout
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.checkpointing.test_importing import LAYOUTS, imported, recipe, the_state
from isc_runtime.tests.checkpointing.test_inventory import tree
from isc_runtime.tests.checkpointing.test_store import DAMAGES
from isc_runtime.tests.processes import Place, differences


@LAYOUTS
@pytest.mark.parametrize("damage", ["a flipped bit", "manifest lost"])
def test_where_a_training_was_it_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isc_mode: bool, damage: str
) -> None:
    """Nobody would notice, in a command that is run again after every interruption."""
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, isc_mode)
    assert place.train("--epochs", "1", "--keep-checkpoints", "1", "--save-steps", "100").code == 0
    (entry,) = (ArtifactLayout if isc_mode else LocalLayout)(place.checkpoints).entries()
    if damage == "manifest lost":
        state = the_state(entry.path)
        torch.save({**state, "saves": 9}, entry.payload)
    DAMAGES[damage](entry.payload, entry.manifest)
    before = tree(place.checkpoints)
    into = ["--into", str(place.checkpoints), "--layout", "artifact" if isc_mode else "local"]
    with pytest.raises(SystemExit) as refused:
        main(["import", str(recipe(tmp_path / "old.pt")), "--if-needed", *into])
    assert refused.value.code == ExitCode.CHECKPOINT
    assert tree(place.checkpoints) == before


@LAYOUTS
def test_an_own_one_that_has_lost_its_manifest_goes_on_exactly(tmp_path: Path, isc_mode: bool) -> None:
    whole, place = (Place(tmp_path / name, isc_mode) for name in made(tmp_path, "whole", "bare"))
    assert whole.train("--epochs", "3", "--save-steps", "4").code == 0
    assert place.train("--epochs", "2", "--save-steps", "4").code == 0
    for manifest in place.checkpoints.rglob("*manifest.json"):
        manifest.unlink()
    stopped = place.train("--epochs", "3", "--save-steps", "4")
    assert stopped.code == ExitCode.CHECKPOINT
    (file,) = re.findall(r"python -m isc_runtime import (\S+) does without", stopped.output)
    done = import_checkpoint(Path(file), place.checkpoints, isc_mode, Wishes())
    assert "had lost its manifest" in done.notes[0]
    ended = place.train("--epochs", "3", "--save-steps", "4")
    assert ended.code == 0, ended.output
    assert ended.steps("Resumed from") == [26]
    assert differences(whole.newest(), place.newest()) == []


def made(directory: Path, *names: str) -> list[str]:
    for name in names:
        (directory / name).mkdir()
    return list(names)


def test_a_quota_that_is_used_up_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(store: LocalStore, state: object, payload: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(payload))

    monkeypatch.setattr(LocalStore, "write", write)
    with pytest.raises(IscError, match=r"cannot be written.*over quota") as raised:
        imported(recipe(tmp_path / "old.pt"), tmp_path / "checkpoints")
    assert raised.value.exit_code is ExitCode.SAVE
    assert good_checkpoint(tmp_path / "checkpoints", False) is None
