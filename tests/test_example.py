"""The example in every detail; a project's own tests of it are few, to be read and replaced."""

from __future__ import annotations

import contextlib
import gzip
import importlib.machinery
import importlib.util
import itertools
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from baking import ROOT
from data import check_data, load_data
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.logs import Scalars
from isc_runtime.ranks.group import Group
from isc_runtime.tests.waits import HostValues, Waits
from isc_runtime.training import fusing
from isc_runtime.training.batches import to_device
from isc_runtime.training.guard import StepGuard
from isc_runtime.training.means import Totals
from model import ConvNet, Transformer, batch_loss

ID = "fashion"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
NAMES = (IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PROJECT = ROOT / "{{cookiecutter.project_slug}}"


def idx(shape: tuple[int, ...], values: bytes, magic: int | None = None) -> bytes:
    """A file in IDX format."""
    magic = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + values


def write_dataset(folder: Path, zipped: bool = False) -> None:
    """Writes 20 training and 10 held-out images of 4 x 5, the pixels of an image all 10 times its label."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 20), ("t10k", 10)):
        labels = bytes(index % 10 for index in range(count))
        images = b"".join(bytes([10 * label]) * 20 for label in labels)
        write(folder / f"{part}-images-idx3-ubyte", idx((count, 4, 5), images), zipped)
        write(folder / f"{part}-labels-idx1-ubyte", idx((count,), labels), zipped)


def write(file: Path, content: bytes, zipped: bool) -> None:
    """Writes a file, or its compressed form."""
    if zipped:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
    else:
        file.write_bytes(content)


def error_of(
    function: Callable[[str | None, Path], object], data_root: Path, dataset_id: str = ID
) -> IscError:
    """The error that a function raises; it has the exit code of wrong data, whatever it is."""
    with pytest.raises(IscError) as caught:
        function(dataset_id, data_root)
    assert caught.value.exit_code == ExitCode.DATA
    return caught.value


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: here it may not."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


class TestDigits:
    def test_need_no_directory(self, tmp_path: Path) -> None:
        check_data(None, tmp_path / "missing")

    def test_without_scikit_learn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(IscError) as caught:
            check_data(None, tmp_path)
        assert "scikit-learn" in caught.value.what
        assert "not installed" in caught.value.what
        assert caught.value.where == sys.executable
        assert "-m pip install scikit-learn" in caught.value.hint
        assert caught.value.exit_code == ExitCode.DATA

    def test_with_a_scikit_learn_that_lacks_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = importlib.machinery.ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
        with pytest.raises(IscError, match="The digits are not in the package") as caught:
            check_data(None, tmp_path)
        assert "--force-reinstall scikit-learn" in caught.value.hint
        assert caught.value.exit_code == ExitCode.DATA

    def test_are_all_of_scikit_learn_s(self, tmp_path: Path) -> None:
        from sklearn.datasets import load_digits  # here and not in data.py: it takes a second to import

        pixels, labels = load_digits(return_X_y=True)
        expected = sorted(
            (*image, label) for image, label in zip(pixels.tolist(), labels.tolist(), strict=True)
        )
        found = []
        for images, targets in (dataset.tensors for dataset in load_data(None, tmp_path)):
            restored = ((images * 0.376 + 0.305) * 16).round().flatten(1).tolist()
            found += [(*image, label) for image, label in zip(restored, targets.tolist(), strict=True)]
        assert sorted(found) == expected

    def test_are_split_alike_every_time_and_every_class_in_proportion(self, tmp_path: Path) -> None:
        first, second = load_data(None, tmp_path), load_data(None, tmp_path)
        for one, other in zip(first, second, strict=True):
            assert all(map(torch.equal, one.tensors, other.tensors))
        training, held_out = first
        assert (len(training), len(held_out)) == (1437, 360)
        share = held_out.tensors[1].bincount() / (
            training.tensors[1].bincount() + held_out.tensors[1].bincount()
        )
        assert share.sub(0.2).abs().max() < 0.01

    def test_have_no_image_in_both_parts(self, tmp_path: Path) -> None:
        training, held_out = load_data(None, tmp_path)
        distances = torch.cdist(training.tensors[0].flatten(1), held_out.tensors[0].flatten(1))
        assert distances.min() > 0

    def test_types_and_scale(self, tmp_path: Path) -> None:
        for dataset in load_data(None, tmp_path):
            images, labels = dataset.tensors
            assert images.dtype == torch.float32
            assert images.shape[1:] == (1, 8, 8)
            assert abs(float(images.mean())) < 0.05
            assert abs(float(images.std()) - 1) < 0.05
            assert labels.dtype == torch.int64
            assert set(labels.tolist()) == set(range(10))


class TestFashionMnist:
    @pytest.mark.parametrize("zipped", [False, True])
    @pytest.mark.parametrize("folder", ["", "raw", "FashionMNIST/raw"])
    def test_is_found_and_loaded(self, tmp_path: Path, folder: str, zipped: bool) -> None:
        write_dataset(tmp_path / ID / folder, zipped)
        check_data(ID, tmp_path)
        training, held_out = load_data(ID, tmp_path)
        assert (len(training), len(held_out)) == (20, 10)
        images, labels = training.tensors
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.shape == (20, 1, 4, 5)
        assert labels.tolist() == [*range(10), *range(10)]
        pixels = (images * 0.353 + 0.286) * 255
        torch.testing.assert_close(pixels[:, 0, 3, 4], labels * 10.0)

    def test_missing_dataset_names_those_that_are_there(self, tmp_path: Path) -> None:
        (tmp_path / "cifar").mkdir()
        (tmp_path / "mnist").mkdir()
        (tmp_path / "notes.txt").touch()
        error = error_of(check_data, tmp_path)
        assert error.what == "There is no such dataset"
        assert error.where == str(tmp_path / ID)
        assert f"one of {tmp_path} with --dataset-id (cifar, mnist)" in error.hint
        assert "--data-root" in error.hint

    @pytest.mark.parametrize("root", ["", "missing"])
    def test_missing_dataset_where_there_is_none(self, tmp_path: Path, root: str) -> None:
        error = error_of(check_data, tmp_path / root)
        assert error.what == "There is no such dataset"
        assert error.where == str(tmp_path / root / ID)
        assert "(it has none), or set --data-root" in error.hint

    @pytest.mark.parametrize("name", NAMES)
    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        write_dataset(tmp_path / ID)
        (tmp_path / ID / name).unlink()
        error = error_of(check_data, tmp_path)
        assert error.what == "A file of the dataset is missing"
        assert error.where == str(tmp_path / ID / name)
        assert f"raw or FashionMNIST/raw, as it is or as {name}.gz" in error.hint

    @pytest.mark.parametrize("zipped", [False, True])
    @pytest.mark.parametrize("function", [check_data, load_data])
    @pytest.mark.parametrize(
        ("name", "content", "what"),
        [
            (IMAGES, b"", "ends after 0 bytes, within its header"),
            (IMAGES, idx((20, 4, 5), b"")[:10], "ends after 10 bytes, within its header"),
            (LABELS, b"\0\0\x08", "ends after 3 bytes, within its header"),
            (IMAGES, idx((20, 4, 5), bytes(400), magic=2049), "magic number is 2049 and should be 2051"),
            (LABELS, idx((20,), bytes(20), magic=2051), "magic number is 2051 and should be 2049"),
            (IMAGES, b"<!DOCTYPE html><html>", "magic number is 1008813135 and should be 2051"),
            (IMAGES, idx((0, 4, 5), b""), "has 16 bytes, and its header promises 16, for [0, 4, 5] values"),
            (LABELS, idx((19,), bytes(19)), "has 19 labels for 20 images"),
        ],
    )
    def test_malformed_header(
        self,
        tmp_path: Path,
        name: str,
        content: bytes,
        what: str,
        function: Callable[[str | None, Path], object],
        zipped: bool,
    ) -> None:
        write_dataset(tmp_path / ID, zipped)
        write(tmp_path / ID / name, content, zipped)
        error = error_of(function, tmp_path)
        assert what in error.what
        assert error.where == str(tmp_path / ID / name) + (".gz" if zipped else "")
        assert error.hint == "Fetch it again, make it readable, or choose another --dataset-id."

    @pytest.mark.parametrize(
        ("function", "zipped"), [(check_data, False), (load_data, False), (load_data, True)]
    )
    @pytest.mark.parametrize("size", [399, 401])
    def test_wrong_size(
        self, tmp_path: Path, function: Callable[[str | None, Path], object], zipped: bool, size: int
    ) -> None:
        write_dataset(tmp_path / ID, zipped)
        write(tmp_path / ID / IMAGES, idx((20, 4, 5), bytes(size)), zipped)
        error = error_of(function, tmp_path)
        assert f"has {16 + size} bytes, and its header promises 416, for [20, 4, 5] values" in error.what
        assert error.where.startswith(str(tmp_path / ID / IMAGES))
        assert "Fetch it again" in error.hint

    def test_label_out_of_range(self, tmp_path: Path) -> None:
        write_dataset(tmp_path / ID)
        write(tmp_path / ID / LABELS, idx((20,), bytes([10] * 20)), zipped=False)
        error = error_of(load_data, tmp_path)
        assert error.what == "A label is 10, and the largest should be 9"
        assert error.where == str(tmp_path / ID / LABELS)
        assert "Fetch it again" in error.hint

    @pytest.mark.parametrize(
        ("damage", "what"),
        [
            (lambda content: content[:-12], "ended before the end-of-stream marker"),
            (lambda content: b"not compressed", "Not a gzipped file"),
            (lambda content: content[:12] + bytes(8) + content[20:], "cannot be read"),
        ],
    )
    def test_damaged_gz(self, tmp_path: Path, damage: Callable[[bytes], bytes], what: str) -> None:
        write_dataset(tmp_path / ID, zipped=True)
        file = tmp_path / ID / f"{IMAGES}.gz"
        file.write_bytes(damage(file.read_bytes()))
        error = error_of(load_data, tmp_path)
        assert what in error.what
        assert error.where == str(file)
        assert "Fetch it again" in error.hint

    def test_a_directory_instead_of_a_file(self, tmp_path: Path) -> None:
        write_dataset(tmp_path / ID)
        (tmp_path / ID / IMAGES).unlink()
        (tmp_path / ID / IMAGES).mkdir()
        error = error_of(check_data, tmp_path)
        assert error.what == "The file cannot be read (Is a directory)"
        assert error.where == str(tmp_path / ID / IMAGES)
        assert "choose another --dataset-id" in error.hint

    @pytest.mark.parametrize("locked", [f"{ID}/{IMAGES}", ID])
    def test_no_permission(self, locked: str) -> None:
        with tempfile.TemporaryDirectory() as name:  # tmp_path is open to its owner only
            data_root = Path(name)
            data_root.chmod(0o755)
            write_dataset(data_root / ID)
            (data_root / locked).chmod(0)
            try:
                with without_privileges():
                    error = error_of(check_data, data_root)
            finally:
                (data_root / locked).chmod(0o755)
        assert "cannot be read" in error.what
        assert "Permission denied" in error.what
        assert error.where == str(data_root / locked)
        assert "make it readable" in error.hint


def test_the_check_needs_the_standard_library_only(tmp_path: Path) -> None:
    write_dataset(tmp_path / ID)
    code = (
        "import sys, pathlib, data\n"
        f"data.check_data({ID!r}, pathlib.Path(sys.argv[1])); data.check_data(None, pathlib.Path('.'))\n"
        "print([name for name in ('torch', 'numpy', 'sklearn') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", [ConvNet, Transformer])
def test_a_model_takes_as_many_channels_and_classes_as_asked_for(
    kind: type[ConvNet] | type[Transformer],
) -> None:
    assert kind(channels=3, classes=7)(torch.randn(2, 3, 8, 8)).shape == (2, 7)


def test_between_two_log_lines_a_step_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each number that is asked of it lets the CPU stand still until all before it is computed."""
    import train

    monkeypatch.setattr(fusing, "FUSED_ON", {"cpu"})  # as if it were a GPU
    group = Group(Environment(), torch.device("cpu"))
    trainer = train.Trainer(train.parse_arguments([]), group)
    batches, totals = iter(trainer.loader), Totals(group)
    trainer.train_batch(next(batches), totals)  # the first one makes the optimizer's state
    trainer.scheduler.step()
    with Waits() as waits:
        for _ in range(3):
            trainer.train_batch(next(batches), totals)
            trainer.sampler.advance()
            trainer.scheduler.step()
    assert waits.count == 0


@pytest.mark.parametrize("model", ["convnet", "transformer"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_moves_no_number_of_the_host_to_the_device(
    monkeypatch: pytest.MonkeyPatch, model: str, parts: int
) -> None:
    """A tensor that is made of one is copied, and that is waited for. The device is one without values."""
    import train

    monkeypatch.setattr(fusing, "FUSED_ON", {"meta"})  # as if it were a GPU
    monkeypatch.setattr(train, "take_step", lambda *_: None)  # torch's own, in the test before
    group = Group(Environment(), torch.device("cpu"))
    trainer = train.Trainer(train.parse_arguments(["--model", model, "--accumulate", str(parts)]), group)
    group.device = torch.device("meta")
    trainer.model = trainer.replica = trainer.model.to("meta")
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters())
    trainer.guard = StepGuard(trainer.model, trainer.metrics, 5)
    monkeypatch.setattr(trainer, "autocast", contextlib.nullcontext)
    batches, totals = iter(trainer.loader), Totals(group)
    trainer.train_batch(to_device(next(batches), group.device), totals)  # the first one makes what stays
    with HostValues("meta") as moved, Waits() as waits:
        for _ in range(3):
            trainer.sampler.advance()
            trainer.train_batch(to_device(next(batches), group.device), totals)
    assert moved.count == 0
    assert waits.count == 0


def test_the_warm_up_computes_as_the_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that know half precision only would fail in it, and compiled code would be compiled twice."""
    import train

    trainer = train.Trainer(train.parse_arguments([]), Group(Environment(), torch.device("cpu")))
    seen: list[bool] = []

    def noted(*given: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return batch_loss(*given)

    monkeypatch.setattr(train, "batch_loss", noted)
    trainer.first_loss(trainer.model)
    trainer.use_amp = True
    trainer.first_loss(trainer.model)
    assert seen == [False, True]


def test_the_speed_is_in_the_log_line_and_in_the_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import train

    caplog.set_level("INFO")
    trainer = train.Trainer(train.parse_arguments([]), Group(Environment(), torch.device("cpu")))
    noted: dict[str, float] = {}
    scalars = Scalars(tmp_path, trackers=[])
    monkeypatch.setattr(scalars, "_add", lambda values, _: noted.update(values))
    for batch in itertools.islice(trainer.meter.over(trainer.loader), 3):
        totals = Totals(trainer.group)
        norm = trainer.train_batch(batch, totals)
        trainer.sampler.advance()
    trainer.log(totals, norm, scalars, lambda *_: None)
    for name in ("samples_per_second", "data_wait"):
        assert f" {name} " in caplog.text
        assert noted[f"training/{name}"] >= 0
