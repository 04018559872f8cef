"""The data: what is loaded, and what is said when they are missing or malformed.

These tests are about the example; change them together with data.py.
Keep: the first test, since launch.sh and train.py check the data before torch is imported. And let yours say
what is missing, where, and what to do, too.
Replace: all others.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data import check_data, load_data
from isc_runtime.errors import ExitCode, IscError

load: Callable[..., Any] = load_data  # yours may return another type
IMAGES = "train-images-idx3-ubyte"
PROJECT = Path(__file__).resolve().parent.parent


def write_fashion_mnist(folder: Path) -> None:
    """Writes 20 training and 10 held-out images of 4 x 5, the pixels of an image all 10 times its label."""
    folder.mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        labels = [index % 10 for index in range(count)]
        pixels = b"".join(bytes([10 * label] * 20) for label in labels)
        header = struct.pack(">4I", 0x0803, count, 4, 5)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x0801, count) + bytes(labels))


def test_the_check_needs_the_standard_library_only() -> None:
    code = (
        "import sys, pathlib, data; data.check_data(None, pathlib.Path('.'))\n"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_the_digits_are_normalized_and_split_alike_every_time(tmp_path: Path) -> None:
    check_data(None, tmp_path)
    training, held_out = load(None, tmp_path)
    assert (len(training), len(held_out)) == (1437, 360)
    images, labels = training.tensors
    assert (images.dtype, images.shape[1:], labels.dtype) == (torch.float32, (1, 8, 8), torch.int64)
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05
    again, _ = load(None, tmp_path)
    assert all(map(torch.equal, training.tensors, again.tensors))


def test_a_dataset_is_loaded(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "fashion")
    check_data("fashion", tmp_path)
    training, held_out = load("fashion", tmp_path)
    assert (len(training), len(held_out)) == (20, 10)
    images, labels = training.tensors
    assert images.shape == (20, 1, 4, 5)
    torch.testing.assert_close((images * 0.353 + 0.286)[:, 0, 3, 4] * 255, labels * 10.0)


def test_a_missing_dataset_is_said_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    with pytest.raises(IscError, match=r"no such dataset: .*fashion\. Choose one of .* \(mnist\)") as raised:
        check_data("fashion", tmp_path)
    assert raised.value.exit_code is ExitCode.DATA


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "A file of the dataset is missing"),
        (b"<!DOCTYPE html><html>", "magic number is 1008813135 and should be 2051"),
        (struct.pack(">4I", 0x0803, 20, 4, 5), "has 16 bytes, and its header promises 416"),
    ],
    ids=["missing", "a web page", "cut off"],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    write_fashion_mnist(tmp_path / "fashion")
    file = tmp_path / "fashion" / IMAGES
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(IscError, match=what) as raised:
        check_data("fashion", tmp_path)
    assert raised.value.where == str(file)
