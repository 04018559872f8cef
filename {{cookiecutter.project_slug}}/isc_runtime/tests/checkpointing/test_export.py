"""Exported weights are the checkpoint's, bit for bit, and a file that is there already is safe."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from isc_runtime.checkpointing.on_disk import export as module
from isc_runtime.checkpointing.on_disk.export import export
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.tests.processes import PROJECT
from isc_runtime.tests.small_training import Network


class Tied(nn.Module):
    """A model in which two names are one tensor, a third is a part of it, and a fourth is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(4, 4)
        self.outputs = nn.Linear(4, 4)
        self.outputs.weight = self.inputs.weight
        self.register_buffer("part", self.inputs.weight.detach()[1:3])
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("conjugate", torch.tensor([1 + 2j, 3 - 4j]).conj())
        self.register_buffer("negative", torch.tensor([1 + 2j, 3 - 4j]).conj().imag)


def save(store: Store, model: nn.Module, step: int = 10, **more: object) -> Path:
    payload = store.prepare(step, False)
    state = {"model": model.state_dict(), "optimizer": {"state": {0: torch.ones(1000)}}, **more}
    store.save(state, payload, step, {})
    store.publish(payload)
    return payload


@pytest.mark.parametrize("build", [Network, Tied])
def test_the_weights_are_the_same_and_load_as_usual(
    store: Store, tmp_path: Path, build: type[nn.Module]
) -> None:
    model = build()
    payload = save(store, model)
    done = export(payload, tmp_path / "weights.safetensors")
    weights = load_file(done.file)
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }
    build().load_state_dict(weights)  # all names are there
    assert (done.step, done.tensors, done.left_out) == (10, len(weights), [])
    assert done.bytes == done.file.stat().st_size
    assert done.file.stat().st_mode == payload.stat().st_mode, "others may read it as they may read any file"
    with safe_open(done.file, "pt") as file:
        assert file.metadata()["step"] == "10"


def test_another_part_is_exported_under_the_names_of_the_model(store: Store, tmp_path: Path) -> None:
    """As people average: the file is loaded by whoever knows the model, and nothing of the average."""
    model, average = Network(), AveragedModel(Network())
    payload = save(store, model, ema=average.state_dict())
    done = export(payload, tmp_path / "average.safetensors", part="ema")
    Network().load_state_dict(load_file(done.file))
    assert load_file(done.file)["last.weight"].equal(average.module.state_dict()["last.weight"])
    assert done.left_out == []


def test_a_model_with_a_part_called_module_keeps_its_names(store: Store, tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    weights = load_file(export(save(store, model), tmp_path / "w.safetensors").file)
    assert weights.keys() == model.state_dict().keys()


def test_a_part_without_weights_is_refused(store: Store, tmp_path: Path) -> None:
    payload = save(store, Network(), ema=Network().state_dict())
    with pytest.raises(IscError, match=r"no weights of the name 'avg'.*checkpoint.*Trainer\.state\(\)"):
        export(payload, tmp_path / "w.safetensors", part="avg")
    with pytest.raises(IscError, match=r"The part 'optimizer' .* has no tensors"):
        export(payload, tmp_path / "w.safetensors", part="optimizer")


def test_a_checkpoint_can_be_named_in_many_ways(store: Store, tmp_path: Path) -> None:
    save(store, Network(), step=10)
    payload = save(store, Network(), step=20)
    manifest, link = store.manifest_path(payload), store.directory / store.link_name
    for number, name in enumerate([store.directory, payload, manifest, link, store.entries()[-1].path]):
        assert export(name, tmp_path / f"{number}.safetensors").step == 20
    assert export(store.entries()[0].path, tmp_path / "first.safetensors").step == 10


def test_a_copied_artifact_is_read_through_its_broken_link(store: Store, tmp_path: Path) -> None:
    save(store, Network())
    copy = tmp_path / "copy of it"
    shutil.copytree(store.directory, copy, symlinks=True, ignore=shutil.ignore_patterns("copy*"))
    for path in store.directory.iterdir():
        if path != copy:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert export(copy / store.link_name, tmp_path / "weights.safetensors").step == 10


def test_a_damaged_checkpoint_is_not_exported(store: Store, tmp_path: Path) -> None:
    payload = save(store, Network())
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    with pytest.raises(IscError, match=r"damaged .*checksum.*checkpoints --verify") as raised:
        export(payload, tmp_path / "weights.safetensors")
    assert raised.value.exit_code == ExitCode.CHECKPOINT
    assert not list(tmp_path.glob("weights*"))


def test_a_file_that_exists_is_replaced_only_when_asked(store: Store, tmp_path: Path) -> None:
    payload, file = save(store, Network()), tmp_path / "weights.safetensors"
    file.write_text("mine")
    with pytest.raises(IscError, match=r"exists.*weights.safetensors.*--force"):
        export(payload, file)
    assert file.read_text() == "mine"
    export(payload, file, force=True)
    assert load_file(file).keys() == Network().state_dict().keys()


def test_force_replaces_no_checkpoint_of_another_program(store: Store, tmp_path: Path) -> None:
    payload = save(store, Network())
    old = tmp_path / "old.pt"
    torch.save({"weights": torch.ones(3)}, old)
    before = old.read_bytes()
    with pytest.raises(IscError, match="a checkpoint of another program"):
        export(payload, old, force=True)
    assert old.read_bytes() == before


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload, file = save(store, Network()), tmp_path / "weights.safetensors"
    file.write_text("old")
    monkeypatch.setattr(
        "isc_runtime.checkpointing.on_disk.export.sync_file",
        lambda path: (_ for _ in ()).throw(OSError(28, "full")),
    )
    with pytest.raises(IscError, match=r"cannot be written .*full.*weights.safetensors") as raised:
        export(payload, file, force=True)
    assert raised.value.exit_code == ExitCode.SAVE
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.glob("weights*")] == [file.name]


HALF_WRITTEN = """
import signal, sys
import safetensors.torch
from isc_runtime.__main__ import main

def save_file(tensors, file, metadata):
    file.write_bytes(b"half")
    print("half", flush=True)
    signal.pause()

safetensors.torch.save_file = save_file
main(["export", *sys.argv[1:]])
"""


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_one_that_is_asked_to_end_takes_half_a_file_away(store: Store, tmp_path: Path) -> None:
    payload, before = save(store, Network()), sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", HALF_WRITTEN, str(payload), str(tmp_path / "weights.safetensors")]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_tensor_is_left_out_and_said(store: Store, tmp_path: Path) -> None:
    payload = store.prepare(1, False)
    part = {"weight": torch.ones(2), "_extra_state": {"a": 1}, 7: torch.ones(2)}
    store.save({"model": part}, payload, 1, {})
    assert export(payload, tmp_path / "w.safetensors").left_out == ["_extra_state", "7"]


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"weights": {}}, "no weights of the name 'model'.*--part"),
        ({"model": {}}, "has no tensors"),
        ({"model": 3}, "no weights of the name 'model'"),
        ({"model": {"w": torch.ones(2, 2).to_sparse()}}, "The tensor w is sparse"),
        ({"model": {"w": torch.ones(2, dtype=torch.complex128)}}, "no words for torch.complex128"),
        ({"model": {"\udcff": torch.ones(2)}}, "no words for 'utf-8' codec"),
    ],
)
def test_what_cannot_be_exported_says_why(
    store: Store, tmp_path: Path, state: dict[str, object], what: str
) -> None:
    payload = store.prepare(1, False)
    store.save(state, payload, 1, {})
    with pytest.raises(IscError, match=what):
        export(payload, tmp_path / "w.safetensors")
    assert not list(tmp_path.glob("w.*"))


@pytest.mark.parametrize("store", ["artifact"], indirect=True)
def test_the_command(store: Store, tmp_path: Path) -> None:
    save(store, Network())
    file = tmp_path / "weights.safetensors"
    line = [sys.executable, "-m", "isc_runtime", "export", str(store.directory), str(file)]
    first, second = (
        subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"{file}: ")
    assert (second.returncode, len(second.stderr.splitlines())) == (ExitCode.UNFIT, 1)
    assert "--force" in second.stderr


@pytest.mark.parametrize("name", ["absent", "absent/deeper/one", "empty"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IscError, match=r"There is no checkpoint.*isc_runtime checkpoints"):
        export(tmp_path / name, tmp_path / "w.safetensors")


def test_no_file_of_a_checkpoint_is_replaced(store: Store, tmp_path: Path) -> None:
    payload = save(store, Network())
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert payload in files
    for file in files:
        if "manifest" in file.name or file.suffix in (".pth", ".pt"):
            with pytest.raises(IscError, match="belongs to a checkpoint"):
                export(payload, file, force=True)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files


def test_what_is_exported_is_not_replaced(tmp_path: Path) -> None:
    """It has the optimizer, too, and may be the only copy."""
    old = tmp_path / "old.pt"
    torch.save({"model": Network().state_dict(), "optimizer": {"state": {}, "param_groups": []}}, old)
    (tmp_path / "link.pt").symlink_to(old)
    before = old.read_bytes()
    for source, target in ((old, old), (tmp_path / "link.pt", old), (old, tmp_path / "link.pt")):
        with pytest.raises(IscError, match="belongs to a checkpoint"):
            export(source, target, force=True)
    assert old.read_bytes() == before


def test_a_link_stays_a_link(store: Store, tmp_path: Path) -> None:
    payload = save(store, Network())
    (tmp_path / "disk").mkdir()
    link = tmp_path / "weights.safetensors"
    link.symlink_to("disk/weights.safetensors")
    export(payload, link)
    assert link.is_symlink()
    assert load_file(tmp_path / "disk" / "weights.safetensors").keys() == Network().state_dict().keys()
    with pytest.raises(IscError, match="This file exists"):
        export(payload, link)


def test_what_is_no_regular_file_is_not_replaced(store: Store, tmp_path: Path) -> None:
    payload = save(store, Network())
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IscError, match="no regular file"):
        export(payload, tmp_path / "pipe", force=True)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(IscError, match=r"File name too long"):
        export(payload, tmp_path / ("x" * 300))


def test_two_exports_at_once_write_each_its_own_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one has half written gets no name, and what came about meanwhile is not replaced."""
    payload, target, seen = save(store, Network()), tmp_path / "weights.safetensors", []
    real = module._save

    def slow(details: dict[str, str], tensors: dict[str, torch.Tensor], file: Path) -> None:
        seen.append(file)
        file.write_bytes(b"half")
        if len(seen) == 1:
            export(payload, target)
        assert file.read_bytes() == b"half"
        real(details, tensors, file)

    monkeypatch.setattr(module, "_save", slow)
    with pytest.raises(IscError, match="This file exists"):
        export(payload, target)
    assert len(set(seen)) == 2
    assert load_file(target).keys() == Network().state_dict().keys()
    assert not list(tmp_path.glob("*.temp"))
