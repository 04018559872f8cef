"""A training by the usual recipe goes on here, exactly, and the way back is open."""

from __future__ import annotations

import argparse
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from isc_runtime.__main__ import main
from isc_runtime.checkpointing.importing import Wishes, import_checkpoint
from isc_runtime.checkpointing.on_disk.export import export
from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.processes import Place, differences
from isc_runtime.tests.small_training import Network, made_data

LAYOUTS = pytest.mark.parametrize("isc_mode", [False, True], ids=["local", "artifact"])


def trained(steps: int = 5, lr: float = 0.01) -> tuple[Network, torch.optim.AdamW]:
    """A model and its optimizer after some steps of the usual loop."""
    torch.manual_seed(3)
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    inputs, labels = made_data(8, seed=5).tensors
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(model(inputs), labels))
        optimizer.step()
    return model, optimizer


def recipe(file: Path, **more: Any) -> Path:
    """What the usual recipe saves."""
    model, optimizer = trained()
    file.parent.mkdir(exist_ok=True, parents=True)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}, file)
    return file


def the_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path / "checkpoint.pt" if path.is_dir() else path, weights_only=True)
    return state


def imported(source: Path, target: Path, isc_mode: bool = False, **wishes: Any) -> dict[str, Any]:
    return the_state(import_checkpoint(source, target, isc_mode, Wishes(**wishes)).path)


def prefixed(prefix: str) -> Callable[[Any], Any]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


@LAYOUTS
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_goes_on_from_it_and_then_exactly(tmp_path: Path, isc_mode: bool, ranks: int) -> None:
    """As often interrupted as you like, and on the disk as any other checkpoint."""
    file = recipe(tmp_path / "old" / "checkpoint.pt", epoch=1)
    places = []
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
        places.append(Place(tmp_path / name, isc_mode))
        import_checkpoint(file, places[-1].checkpoints, isc_mode, Wishes())
    whole, place = places
    ended = whole.train("--epochs", "3", ranks=ranks)
    assert ended.code == 0, ended.output
    assert ended.steps("Resumed from") == [5]
    assert ended.steps(": loss")[0] == 6
    said = "[IMPORT] Imported from checkpoint.pt: random numbers and the order of the data begin anew"
    assert f"{said}, and so do scheduler, metrics, evaluation" in ended.output
    first = place.train("--epochs", "2", "--save-steps", "3", ranks=ranks)
    assert first.code == 0, first.output
    second = place.train("--epochs", "3", ranks=ranks)
    assert second.code == 0, second.output
    assert "[IMPORT]" not in second.output
    assert differences(place.newest(), whole.newest()) == []


def test_its_weights_and_its_optimizer_are_taken_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    taken = imported(recipe(tmp_path / "last.pth", step=70, epoch=2), tmp_path / "checkpoints")
    assert differences(taken["model"], dict(model.state_dict())) == []
    assert differences(taken["optimizer"]["state"], optimizer.state_dict()["state"]) == []
    assert taken["sampler"] == {"epoch": 2, "batch": 0, "samples": 0, "step": 70}


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "DistributedDataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "blocks compiled": lambda state: {
        name.replace("blocks.0.", "blocks.0._orig_mod."): v for name, v in state.items()
    },
}


@pytest.mark.parametrize("case", WRAPPED)
def test_names_of_wrappers_are_taken_off(tmp_path: Path, case: str) -> None:
    model, _ = trained()
    torch.save({"model": WRAPPED[case](model.state_dict()), "step": 5}, tmp_path / "a.pt")
    Network().load_state_dict(imported(tmp_path / "a.pt", tmp_path / "checkpoints")["model"])


def lightning(file: Path) -> None:
    model, optimizer = trained()
    state = {"epoch": 3, "global_step": 40, "state_dict": prefixed("net.")(model.state_dict())}
    torch.save({**state, "optimizer_states": [optimizer.state_dict()], "lr_schedulers": []}, file)


SHAPES: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "a state dict alone": (
        lambda file: torch.save(trained()[0].state_dict(), file),
        {"numbers": {"step": 40}},
    ),
    "in the format of old": (
        lambda file: torch.save(
            {"model": trained()[0].state_dict(), "step": 40}, file, _use_new_zipfile_serialization=False
        ),
        {},
    ),
    "safetensors": (lambda file: save_file(trained()[0].state_dict(), file), {"numbers": {"step": 40}}),
    "other names": (
        lambda file: torch.save({"model_state_dict": trained()[0].state_dict(), "iter_num": 40}, file),
        {},
    ),
    "names of one's own": (
        lambda file: torch.save({"a": {"b": [trained()[0].state_dict()]}, "step": torch.tensor(40)}, file),
        {"keys": {"model": "a.b.0"}},
    ),
    "Lightning's": (lightning, {"strip": "net."}),
}


@pytest.mark.parametrize("case", SHAPES)
def test_usual_shapes_are_understood(tmp_path: Path, case: str) -> None:
    write, wishes = SHAPES[case]
    file = tmp_path / ("a.safetensors" if case == "safetensors" else "a.ckpt")
    write(file)
    taken = imported(file, tmp_path / "checkpoints", **wishes)
    Network().load_state_dict(taken["model"])
    assert taken["sampler"]["step"] == 40
    assert ("optimizer" in taken) == (case == "Lightning's")


@LAYOUTS
@pytest.mark.parametrize("has_link", [True, False])
def test_the_recipe_s_own_directories_stay_where_they_are(
    tmp_path: Path, isc_mode: bool, has_link: bool
) -> None:
    """Several savers' work of months, and in an artifact under the very names that this project uses."""
    place = Place(tmp_path, isc_mode)
    place.checkpoints.mkdir(exist_ok=True)
    files = [
        recipe(place.checkpoints / f"AtomicDirectory_checkpoint_{n}" / "checkpoint.pt") for n in range(3)
    ]
    files.append(recipe(place.checkpoints / "best_checkpoint_7_force" / "checkpoint.pt"))
    if has_link:
        (place.checkpoints / "AtomicDirectory.latest_checkpoint").symlink_to(files[2].parent)
    refused = place.train("--epochs", "1")
    assert refused.code == ExitCode.CHECKPOINT, refused.output
    assert "AtomicDirectory_checkpoint_2" in refused.output or "best_checkpoint_7_force" in refused.output
    import_checkpoint(files[2], place.checkpoints, isc_mode, Wishes())
    assert all(file.exists() for file in files)
    ended = place.train("--epochs", "1")
    assert ended.code == 0, ended.output
    assert ended.steps("Resumed from") == [5]
    assert files[3].exists()
    assert has_link or isc_mode or all(file.exists() for file in files)


def test_a_good_checkpoint_is_never_hidden_by_an_import(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.train("--epochs", "1").code == 0
    before = sorted(path.name for path in place.checkpoints.iterdir())
    with pytest.raises(IscError, match=r"a good checkpoint .*_13.*Nothing was changed.*--into"):
        import_checkpoint(recipe(tmp_path / "old.pt"), place.checkpoints, False, Wishes())
    assert sorted(path.name for path in place.checkpoints.iterdir()) == before


def test_an_own_checkpoint_needs_no_import(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.train("--epochs", "1").code == 0
    with pytest.raises(IscError, match="This is a checkpoint of this project"):
        import_checkpoint(place.checkpoints / "resume.pth", tmp_path / "other", False, Wishes())


def test_what_it_does_not_say_is_asked_for(tmp_path: Path) -> None:
    model, _ = trained()
    file = tmp_path / "a.pt"
    torch.save({"model": model.state_dict(), "batch": 3}, file)
    with pytest.raises(IscError, match=r"does not say its step.*a\.pt.*--step N.*--init-from"):
        imported(file, tmp_path / "checkpoints")
    with pytest.raises(IscError, match=r"at batch 3 .*does not say how many samples.*--samples N.*--batch 0"):
        imported(file, tmp_path / "checkpoints", numbers={"step": 9})
    taken = imported(file, tmp_path / "checkpoints", numbers={"step": 9, "samples": 24, "epoch": 1})
    assert taken["sampler"] == {"epoch": 1, "batch": 3, "samples": 24, "step": 9}


def test_a_position_within_an_epoch_goes_on_there(tmp_path: Path) -> None:
    place = Place(tmp_path)
    numbers = {"batch": 3, "samples": 24, "epoch": 1}
    import_checkpoint(recipe(tmp_path / "a.pt"), place.checkpoints, False, Wishes(numbers=numbers))
    ended = place.train("--epochs", "2")
    assert ended.code == 0, ended.output
    assert place.newest()["sampler"]["step"] == 5 + 10, "76 samples are left, 8 in a batch"


def test_a_position_behind_the_end_of_the_data_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    numbers = {"batch": 3, "samples": 101}
    import_checkpoint(recipe(tmp_path / "a.pt"), place.checkpoints, False, Wishes(numbers=numbers))
    ended = place.train("--epochs", "2")
    assert ended.code == ExitCode.CHECKPOINT
    assert "'sampler' does not fit (101 samples of an epoch that has 100)" in ended.output


OTHERS: dict[str, tuple[Callable[[Network], Any], str]] = {
    "another kind": (
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "the state of another kind of optimizer",
    ),
    "another order": (
        lambda model: torch.optim.AdamW(list(model.parameters())[::-1], lr=0.1),
        "has the shape",
    ),
    "other groups": (
        lambda model: torch.optim.AdamW([{"params": [p]} for p in model.parameters()], lr=0.1),
        "parameter groups",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_state_of_another_optimizer_is_refused_before_the_first_step(tmp_path: Path, case: str) -> None:
    make, words = OTHERS[case]
    model = Network()
    optimizer = make(model)
    torch.autograd.backward(model(torch.ones(2, 8)).sum())
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}
    torch.save(state, tmp_path / "a.pt")
    place = Place(tmp_path)
    import_checkpoint(tmp_path / "a.pt", place.checkpoints, False, Wishes())
    ended = place.train("--epochs", "1")
    assert ended.code == ExitCode.CHECKPOINT, ended.output
    assert "its 'optimizer' does not fit" in ended.output
    assert words in ended.output
    shutil.rmtree(place.checkpoints)
    import_checkpoint(tmp_path / "a.pt", place.checkpoints, False, Wishes(without=("optimizer",)))
    assert place.train("--epochs", "1").code == 0


def test_a_scheduler_goes_on_and_one_of_another_kind_is_refused(tmp_path: Path) -> None:
    _, optimizer = trained()
    own = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5)
    own.last_epoch = 40
    other = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    place = Place(tmp_path)
    import_checkpoint(
        recipe(tmp_path / "a.pt", lr_scheduler=own.state_dict()), place.checkpoints, False, Wishes()
    )
    assert place.train("--epochs", "1").code == 0
    assert place.newest()["scheduler"]["last_epoch"] == 40 + 13
    shutil.rmtree(place.checkpoints)
    file = recipe(tmp_path / "b.pt", lr_scheduler=other.state_dict())
    import_checkpoint(file, place.checkpoints, False, Wishes())
    refused = place.train("--epochs", "1")
    assert refused.code == ExitCode.CHECKPOINT
    assert "'scheduler' does not fit (it has no gamma, step_size: the state of another kind" in refused.output
    shutil.rmtree(place.checkpoints)
    import_checkpoint(file, place.checkpoints, False, Wishes(without=("scheduler",)))
    assert place.train("--epochs", "1").code == 0


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2).state_dict(), "step": 1}, tmp_path / "a.pt")
    place = Place(tmp_path)
    import_checkpoint(tmp_path / "a.pt", place.checkpoints, False, Wishes())
    ended = place.train("--epochs", "1")
    assert ended.code == ExitCode.CHECKPOINT
    assert "'model' does not fit" in ended.output
    assert "It was imported from a.pt. Move it away, and import that again" in ended.output
    assert "Traceback" not in ended.output


def test_a_pickle_that_would_run_code_is_read_only_when_it_is_trusted(tmp_path: Path) -> None:
    file = recipe(tmp_path / "a.pt", args=argparse.Namespace(lr=1))
    with pytest.raises(IscError, match=r"would run code .*argparse.Namespace.*--trust-pickle") as refused:
        imported(file, tmp_path / "checkpoints")
    assert refused.value.exit_code == ExitCode.CHECKPOINT
    assert not (tmp_path / "checkpoints").exists()
    taken = imported(file, tmp_path / "checkpoints", trust_pickle=True)
    assert "args" not in taken


@pytest.mark.parametrize("program", ["torch", "pickle"])
def test_a_whole_module_is_read_when_it_is_trusted(
    program: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    file = tmp_path / "a.pt"
    torch.save(trained()[0], file) if program == "torch" else file.write_bytes(pickle.dumps(trained()[0]))
    with pytest.raises(IscError, match="--trust-pickle"):
        imported(file, tmp_path / "checkpoints")
    assert [str(warning.message) for warning in recwarn] == []
    wishes: dict[str, Any] = {"trust_pickle": True, "numbers": {"step": 5}}
    Network().load_state_dict(imported(file, tmp_path / "checkpoints", **wishes)["model"])


def test_what_cannot_be_imported_says_why_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("something")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1, "step": 2}, tmp_path / "empty.pt")
    (tmp_path / "none").mkdir()
    recipe(tmp_path / "two" / "a.pt")
    recipe(tmp_path / "two" / "b.pt")
    cases = {
        "text.pt": "cannot be read .*text.pt",
        "list.pt": "holds a list and no dict",
        "empty.pt": "no weights under any usual name; its keys are a, step.*--model",
        "none": "no checkpoint here",
        "two": r"several checkpoints here \(a.pt, b.pt\).*Name the file",
        "absent.pt": "no such file",
    }
    for name, words in cases.items():
        with pytest.raises(IscError, match=words) as refused:
            imported(tmp_path / name, tmp_path / "checkpoints", numbers={"step": 1})
        assert refused.value.exit_code == ExitCode.CHECKPOINT
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(IscError, match=r"no optimizer under 'opt'.*--optimizer KEY"):
        imported(recipe(tmp_path / "a.pt"), tmp_path / "checkpoints", keys={"optimizer": "opt"})


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LOSSY_ARTIFACT_PATH", "CHECKPOINT_ARTIFACT_PATH", "OUTPUT_PATH"):
        monkeypatch.delenv(name, raising=False)
    file = recipe(tmp_path / "old" / "checkpoint.pt", epoch=2, loss=0.5)
    assert main(["import", str(file.parent), "--batch", "2", "--samples", "16"]) == 0
    said = capsys.readouterr().out
    for part in (
        *("a training there goes on from it", "Taken: model (its 'model'), optimizer (its 'optimizer')."),
        *("Step 5: counted by its optimizer", "Epoch 2: as its 'epoch' says", "--epoch 3"),
        *("Batch 2: as you said", "Not restored: random numbers", "There is no scheduler in it"),
        "Not taken: loss.",
    ):
        assert part in said
    (series,) = take_inventory(tmp_path / "checkpoints", verify=True).series
    assert (series.checkpoints[0].step, series.checkpoints[0].is_next) == (5, True)
    assert main(["import", str(file), "--into", "elsewhere", "--layout", "artifact", "--step", "9"]) == 0
    assert (tmp_path / "elsewhere" / "AtomicDirectory.latest_checkpoint" / "checkpoint.pt").exists()
    with pytest.raises(SystemExit) as refused:
        main(["import", str(file)])
    assert refused.value.code == ExitCode.CHECKPOINT
    assert "ERROR: There is a good checkpoint" in capsys.readouterr().err


def test_in_a_command_of_the_isc_it_imports_once_and_on_one_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, isc_mode=True)
    for name in ("LOSSY_ARTIFACT_PATH", "CHECKPOINT_ARTIFACT_PATH"):
        monkeypatch.setenv(name, place.environment()[name])
    command = ["import", str(recipe(tmp_path / "old.pt")), "--if-needed"]
    monkeypatch.setenv("NODE_RANK", "1")
    assert main(command) == 0
    assert not list(place.checkpoints.iterdir())
    monkeypatch.setenv("NODE_RANK", "0")
    assert main(command) == 0
    assert "a training there goes on from it" in capsys.readouterr().out
    before = sorted(path.name for path in place.checkpoints.iterdir())
    assert main(command) == 0
    assert "Nothing to import" in capsys.readouterr().out
    assert sorted(path.name for path in place.checkpoints.iterdir()) == before


@LAYOUTS
def test_the_way_back_is_open(tmp_path: Path, isc_mode: bool) -> None:
    """The usual recipe's own lines, and nothing of this project."""
    place = Place(tmp_path, isc_mode)
    assert place.train("--epochs", "1").code == 0
    latest = "AtomicDirectory.latest_checkpoint/checkpoint.pt" if isc_mode else "resume.pth"
    checkpoint = torch.load(place.checkpoints / latest, map_location="cpu")
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    assert checkpoint["sampler"]["step"] == scheduler.last_epoch == 13
    torch.autograd.backward(model(torch.ones(2, 8)).sum())
    optimizer.step()
    scheduler.step()


def test_weights_of_another_program_are_exported(tmp_path: Path) -> None:
    file = recipe(tmp_path / "old" / "last.ckpt", step=12)
    for source in (file, file.parent):
        done = export(source, tmp_path / "w.safetensors", force=True)
        assert (done.step, done.checkpoint) == (12, file)
    from safetensors.torch import load_file

    Network().load_state_dict(load_file(tmp_path / "w.safetensors"))
