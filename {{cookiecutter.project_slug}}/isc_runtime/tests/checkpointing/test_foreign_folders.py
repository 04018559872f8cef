"""Checkpoints of other programs that are several files stop the start, and trainings go on from them."""

from __future__ import annotations

import contextlib
import json
import pickle
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from isc_runtime.checkpointing.importing import Wishes, import_checkpoint
from isc_runtime.checkpointing.on_disk.distributed import read_distributed
from isc_runtime.checkpointing.on_disk.export import export, read_weights
from isc_runtime.checkpointing.on_disk.foreign import other_checkpoints
from isc_runtime.checkpointing.on_disk.foreign_source import CONVERT, read_foreign
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.checkpointing.test_importing import imported, trained
from isc_runtime.tests.conftest import open_store
from isc_runtime.tests.processes import Place, differences, run_forked
from isc_runtime.tests.small_training import Network

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def distributed(folder: Path, by_name: bool = False, **more: Any) -> Path:
    """As torch's tutorials have it: states as they are, or with parameters by their names."""
    model, optimizer = trained()
    state = get_optimizer_state_dict(model, optimizer) if by_name else optimizer.state_dict()
    save_distributed({"model": model.state_dict(), "optimizer": state, **more}, checkpoint_id=folder)
    return folder


def index_of(folder: Path, state: dict[str, Any], save: Callable[[Any, Path], object], name: str) -> Path:
    """Weights in two files, and the index that says which is where, as transformers writes them."""
    folder.mkdir(exist_ok=True)
    stem, _, suffix = name.rpartition(".")
    places: dict[str, str] = {}
    for number, start in ((1, 0), (2, 2)):
        part = dict([*state.items()][start : 2 if start == 0 else None])
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        save(part, folder / file)
        places |= dict.fromkeys(part, file)
    content = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{name}.index.json").write_text(json.dumps(content))
    return folder


def in_parts(folder: Path) -> Path:
    return index_of(folder, dict(trained()[0].state_dict()), save_file, "model.safetensors")


def in_pickled_parts(folder: Path) -> Path:
    return index_of(folder, dict(trained()[0].state_dict()), torch.save, "pytorch_model.bin")


def of_trainer(folder: Path) -> Path:
    """What transformers.Trainer leaves in a folder checkpoint-5."""
    model, optimizer = trained()
    folder.mkdir(exist_ok=True)
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5)
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    torch.save(Evil(folder / "never"), folder / "training_args.bin")
    numbers = {"epoch": 2.71, "global_step": 5, "log_history": [{"loss": 0.1, "step": 5}]}
    (folder / "trainer_state.json").write_text(json.dumps(numbers))
    (folder / "config.json").write_text("{}")
    return folder


def of_accelerate(folder: Path) -> Path:
    """What accelerate's save_state leaves."""
    model, optimizer = trained()
    folder.mkdir(exist_ok=True)
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    torch.save({"last_epoch": 5, "_step_count": 6}, folder / "scheduler.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"torch": torch.get_rng_state()}))
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "of torch.distributed.checkpoint": distributed,
    "of it, parameters by name": lambda folder: distributed(folder, by_name=True),
    "weights in parts": in_parts,
    "pickled weights in parts": in_pickled_parts,
    "of transformers' Trainer": of_trainer,
    "of accelerate": of_accelerate,
}


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.parametrize("kind", ["artifact", "local"])
def test_a_folder_stops_the_start_and_its_own_hint_helps(
    kind: str, case: str, tmp_path: Path, group: Group
) -> None:
    """The command in the message is the one that imports it."""
    (tmp_path / "here").mkdir()
    folder = FOLDERS[case](tmp_path / "here" / "check point-5")
    with pytest.raises(IscError, match="did not write") as stopped:
        open_store(kind, tmp_path / "here", group).choose()
    words = shlex.split(stopped.value.hint.partition("python -m isc_runtime ")[2].partition(" does that")[0])
    assert words == ["import", str(folder)]
    model, optimizer = trained()
    taken = imported(folder, tmp_path / "new", numbers={"step": 5})
    assert differences(taken["model"], dict(model.state_dict())) == []
    if "optimizer" in taken:
        assert [*taken["optimizer"]["state"].values()], "without it the training would begin anew in silence"
        ours = Network()
        other = torch.optim.AdamW(ours.parameters())
        other.load_state_dict(taken["optimizer"])
        assert differences(other.state_dict()["state"], optimizer.state_dict()["state"]) == []
    else:
        assert "in parts" in case
    assert differences(read_weights(folder)[0], dict(model.state_dict())) == []
    assert export(folder, tmp_path / "w.safetensors").tensors == len(model.state_dict())
    assert not list(tmp_path.rglob("never"))


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_may_hold_links(case: str, tmp_path: Path) -> None:
    """As the cache of a hub does: the files themselves are elsewhere, and called otherwise."""
    folder, (blobs, here) = FOLDERS[case](tmp_path / "old"), (tmp_path / "blobs", tmp_path / "here")
    expected = imported(folder, tmp_path / "new", numbers={"step": 5})
    folder.rename(blobs)
    here.mkdir()
    for number, file in enumerate([*blobs.iterdir()]):
        (here / file.name).symlink_to(Path("../blobs") / file.rename(blobs / str(number)).name)
    assert differences(imported(here, tmp_path / "linked", numbers={"step": 5}), expected) == []
    for source in (here, *here.glob("*.index.json")):
        assert differences(read_weights(source)[0], expected["model"]) == []


@pytest.mark.parametrize("case", ["of it, parameters by name", "of transformers' Trainer"])
def test_a_training_goes_on_from_it(case: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    import_checkpoint(FOLDERS[case](tmp_path / "old"), place.checkpoints, False, Wishes())
    ended = place.train("--epochs", "4")
    assert ended.code == 0, ended.output
    assert ended.steps("Resumed from") == [5]


def test_what_a_trainer_s_folder_says_is_taken_and_the_rest_is_named(tmp_path: Path) -> None:
    folder = of_trainer(tmp_path / "old")
    (folder / ".isc-lock").touch()  # of a training that was stopped here
    done = import_checkpoint(folder, tmp_path / "new", False, Wishes())
    said = " ".join(done.notes)
    for words in (
        "model (its 'model.safetensors'), optimizer (its 'optimizer.pt'), scheduler (its 'scheduler.pt')",
        "Step 5: as its 'global_step' says",
        "Epoch 2: as its 'epoch' says",
        "Not taken: config.json, rng_state.pth, training_args.bin.",
    ):
        assert words in said


def test_what_a_trainer_was_told_is_no_checkpoint(tmp_path: Path, group: Group) -> None:
    """Its save_model writes that beside the weights, and after them."""
    (tmp_path / "here").mkdir()
    folder = of_trainer(tmp_path / "whole").rename(tmp_path / "here" / "last")
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"):
        (folder / name).unlink()
    weights = folder / "model.safetensors"
    with pytest.raises(IscError, match="did not write") as stopped:
        open_store("local", tmp_path / "here", group).choose()
    assert f"isc_runtime import {weights} does that" in stopped.value.hint
    assert set(imported(folder, tmp_path / "new", numbers={"step": 5})["model"]) == set(
        read_weights(weights)[0]
    )
    weights.unlink()
    with pytest.raises(IscError, match="would run code"):
        imported(folder, tmp_path / "new", numbers={"step": 5})


def test_torch_s_own_command_makes_a_file_that_can_be_imported(tmp_path: Path) -> None:
    """Word for word as the message has it, of what is not read here: it runs the code in the folder."""
    folder = distributed(tmp_path / "old folder")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = {**metadata.planner_data, "more": Evil(tmp_path / "ran")}
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(IscError, match=r"would run code .*it asks for pathlib") as refused:
        imported(folder, tmp_path / "new")
    assert not (tmp_path / "ran").exists()
    command = refused.value.hint[refused.value.hint.index(CONVERT) :]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "ran").exists(), "which is why it is not done without being asked"
    model, optimizer = trained()
    taken = imported(tmp_path / "FILE.pt", tmp_path / "new")
    assert differences(taken["model"], dict(model.state_dict())) == []
    assert differences(taken["optimizer"]["state"], optimizer.state_dict()["state"]) == []


NESTED: dict[str, Any] = {
    "model": {"w": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(3), "none": torch.empty(0, 4)},
    "list": [torch.ones(1), {"a": torch.zeros(2)}, torch.ones(3)],
    "numbers": {"epoch": 3, "rate": 0.5, "names": ["a", "b"], "flags": (True, None)},
    "plain": {1: "one", 0: "zero"},
    "deep": {"er": {"est": torch.ones(2, dtype=torch.bfloat16)}},
}


def test_a_state_comes_back_as_torch_itself_brings_it(tmp_path: Path) -> None:
    save_distributed(NESTED, checkpoint_id=tmp_path / "old")
    dcp_to_torch_save(tmp_path / "old", tmp_path / "whole.pt")
    theirs = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert differences(read_distributed(tmp_path / "old"), theirs) == []


def test_what_several_ranks_have_written_is_put_together(tmp_path: Path) -> None:
    def work() -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        torch.distributed.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (2,))
        values = {"odd": torch.arange(35.0).reshape(5, 7), "one": torch.arange(3.0)}
        state = {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in values.items()}
        save_distributed({"model": state, "step": 7}, checkpoint_id=tmp_path / "old")
        torch.distributed.destroy_process_group()

    assert [ended.code for ended in run_forked(tmp_path, work)] == [0, 0]
    assert len([*(tmp_path / "old").glob("*.distcp")]) == 2
    state = read_foreign(tmp_path / "old")
    assert state["step"] == 7
    assert torch.equal(state["model"]["odd"], torch.arange(35.0).reshape(5, 7))
    assert torch.equal(state["model"]["one"], torch.arange(3.0))


def test_code_in_a_folder_is_run_only_when_it_is_trusted(tmp_path: Path) -> None:
    folder = distributed(tmp_path / "old", more=Evil(tmp_path / "ran"))
    with pytest.raises(IscError, match=r"would run code .*--trust-pickle"):
        imported(folder, tmp_path / "new")
    assert not (tmp_path / "ran").exists()
    taken = imported(folder, tmp_path / "new", trust_pickle=True)
    assert (tmp_path / "ran").exists()
    Network().load_state_dict(taken["model"])


def test_a_damaged_folder_is_refused_in_words(tmp_path: Path) -> None:
    """Each byte of what says where things are may be wrong, and every file short."""
    folder = tmp_path / "old"
    save_distributed(
        {"model": {"w": torch.ones(2, 3)}, "many": [torch.ones(1)], "step": 3}, checkpoint_id=folder
    )
    metadata, shard = folder / ".metadata", folder / "__0_0.distcp"
    whole, content = metadata.read_bytes(), shard.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        metadata.write_bytes(changed)
        with contextlib.suppress(IscError):
            read_foreign(folder)
    metadata.write_bytes(whole)
    for length in (0, 1, 1000, len(content) // 2):
        shard.write_bytes(content[:length])
        with pytest.raises(IscError, match="cannot be read") as refused:
            read_foreign(folder)
        assert refused.value.exit_code == ExitCode.CHECKPOINT
    shard.unlink()
    with pytest.raises(IscError, match="cannot be read"):
        read_foreign(folder)
    shard.write_bytes(content)
    metadata.unlink()
    for source in (folder, shard):
        with pytest.raises(IscError, match=r"part of a checkpoint .*\.metadata is not beside it.*cut short"):
            imported(source, tmp_path / "new")


def test_the_files_of_a_folder_mean_the_folder(tmp_path: Path) -> None:
    folder = distributed(tmp_path / "old")
    taken = imported(folder / "__0_0.distcp", tmp_path / "new")
    assert differences(taken["model"], dict(trained()[0].state_dict())) == []


PART, INDEX = "model-00002-of-00002.safetensors", "model.safetensors.index.json"
INDEXES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda folder: (folder / PART).unlink(), "which is not there"),
    "a file has something else": (
        lambda folder: save_file({"x": torch.ones(1)}, folder / PART),
        "which is not in model-00002",
    ),
    "no JSON": (lambda folder: (folder / INDEX).write_text("{"), "The index cannot be read"),
    "no map": (lambda folder: (folder / INDEX).write_text("{}"), "has no weight_map"),
    "itself": (
        lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": {"w": INDEX}})),
        "names files beside it",
    ),
    "a file elsewhere": (
        lambda folder: (folder / INDEX).write_text('{"weight_map": {"w": "../secret.safetensors"}}'),
        "names files beside it",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_does_not_fit_its_files(case: str, tmp_path: Path) -> None:
    folder = in_parts(tmp_path / "old")
    change, words = INDEXES[case]
    change(folder)
    for source in (folder, folder / INDEX):
        with pytest.raises(IscError, match=words) as refused:
            imported(source, tmp_path / "new", numbers={"step": 1})
        assert refused.value.exit_code == ExitCode.CHECKPOINT
    assert not (tmp_path / "new").exists()


def test_several_folders_must_be_named(tmp_path: Path) -> None:
    """As a Trainer leaves them: one for each save, and the last weights beside them."""
    (tmp_path / "out").mkdir()
    for name in ("checkpoint-5", "checkpoint-10"):
        of_trainer(tmp_path / "out" / name)
    with pytest.raises(IscError, match=r"several checkpoints here \(checkpoint-10, checkpoint-5\)"):
        imported(tmp_path / "out", tmp_path / "new")
    assert imported(tmp_path / "out" / "checkpoint-5", tmp_path / "new")["sampler"]["step"] == 5


def test_the_parts_of_deepspeed_are_called_so(tmp_path: Path, group: Group) -> None:
    here = tmp_path / "here"
    folder = here / "global_step100"
    folder.mkdir(parents=True)
    (here / "latest").write_text("global_step100")
    (here / "zero_to_fp32.py").write_text("")
    torch.save({"module": {}, "global_steps": 100}, folder / "mp_rank_00_model_states.pt")
    for rank in (0, 1):
        torch.save({"optimizer_state_dict": {}}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    with pytest.raises(IscError, match="did not write") as stopped:
        open_store("local", here, group).choose()
    assert f"isc_runtime import {folder} " in stopped.value.hint
    for source in (here, folder):
        with pytest.raises(IscError, match=r"parts of a checkpoint of DeepSpeed.*zero_to_fp32\.py"):
            imported(source, tmp_path / "new")


BY_CONTENT: dict[str, Callable[[Path], object]] = {
    "checkpoint.isc": lambda file: torch.save({"model": {}}, file),  # as the ISC's own demos call it
    "model_best.tar": lambda file: torch.save({"model": {}}, file),
    "snapshot": lambda file: torch.save({"model": {}}, file),
    "MODEL.PT": lambda file: file.write_bytes(b"?"),
    "net.weights": lambda file: torch.save({"w": torch.ones(1)}, file, _use_new_zipfile_serialization=False),
    "w.tensors": lambda file: save_file({"w": torch.ones(1)}, file),
    "model.pkl": lambda file: file.write_bytes(pickle.dumps(torch.nn.Linear(2, 2))),
    "half.distcp": lambda file: torch.save(torch.ones(1), file),
}


@pytest.mark.parametrize("name", BY_CONTENT)
@pytest.mark.parametrize("kind", ["artifact", "local"])
def test_whatever_torch_has_written_is_seen_by_whatever_name(
    kind: str, name: str, tmp_path: Path, group: Group
) -> None:
    BY_CONTENT[name](tmp_path / name)
    with pytest.raises(IscError, match="did not write") as stopped:
        open_store(kind, tmp_path, group).choose()
    assert f"{name}: " in stopped.value.where
    assert "unknown format" not in stopped.value.where or name == "MODEL.PT"


def test_a_link_to_a_checkpoint_elsewhere_is_seen(tmp_path: Path, group: Group) -> None:
    (tmp_path / "here").mkdir()
    torch.save({"model": {}}, tmp_path / "epoch=3.ckpt")
    (tmp_path / "here" / "last.ckpt").symlink_to(tmp_path / "epoch=3.ckpt")
    with pytest.raises(IscError, match=r"last\.ckpt: a link to .*epoch=3\.ckpt"):
        open_store("local", tmp_path / "here", group).choose()


def test_other_archives_and_pickles_are_none(tmp_path: Path, group: Group) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    (tmp_path / "vocabulary.pkl").write_bytes(pickle.dumps({"words": ["a", "b"]}))
    (tmp_path / "tokens.bin").write_bytes(b"\x80\x02" + bytes(100_000))
    (tmp_path / "short").write_bytes(b"PK\x03\x04")
    assert other_checkpoints(tmp_path, tmp_path / "none") == []
    assert open_store("local", tmp_path, group).choose() is None
