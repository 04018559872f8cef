"""The data. Yours to change: train.py needs `check_data` and `load_data`, and nothing else from here.

Without a dataset id these are the handwritten digits that scikit-learn ships: 1797 images, 8 x 8. With one,
Fashion-MNIST's files or any in the same format: https://github.com/zalandoresearch/fashion-mnist#get-the-data
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import TensorDataset

    Datasets = tuple[TensorDataset, TensorDataset]

# torch and scikit-learn take seconds to import: only load_data does it, so that check_data answers at once.

CLASSES = 10
PARTS = ("train", "t10k")  # of Fashion-MNIST: training and held-out
FOLDERS = ("FashionMNIST/raw", "raw", "")  # where torchvision puts the files, and where people do
AGAIN = "Fetch this file again, or choose another --dataset-id."


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """Says what is wrong with the data, before anything slow begins. Reads headers, not images.

    Args:
        dataset_id: a directory in `data_root`; None means the digits of scikit-learn.
        data_root: the directory of the datasets.

    Raises:
        IscError: the data are missing, cannot be read, or are malformed.
    """
    if dataset_id is None:
        if importlib.util.find_spec("sklearn") is None:
            hint = f"Install it: {sys.executable} -m pip install scikit-learn"
            raise _error("The package scikit-learn, which brings the digits, is missing", sys.executable, hint)
        return
    directory = _directory(dataset_id, data_root)
    for part in PARTS:
        _read_part(directory, part, header_only=True)


def load_data(dataset_id: str | None, data_root: Path) -> Datasets:
    """Loads what `check_data` checked. It is the same on every rank and in every run.

    Returns:
        The training and the held-out dataset, of pairs of an image, float32 (1, height, width) with a mean
        of about 0 and a standard deviation of about 1, and a label, int64 from 0 to 9.

    Raises:
        IscError: the data are missing, cannot be read, or are malformed.
    """
    if dataset_id is None:
        return _load_digits()
    import torch
    from torch.utils.data import TensorDataset

    directory = _directory(dataset_id, data_root)
    datasets = []
    for part in PARTS:
        shape, pixels, label_bytes = _read_part(directory, part)
        images = torch.frombuffer(pixels, dtype=torch.uint8).reshape(shape[0], 1, *shape[1:])
        labels = torch.frombuffer(label_bytes, dtype=torch.uint8).long()
        if int(labels.max()) >= CLASSES:
            what = f"A label is {int(labels.max())}, and there are {CLASSES} classes"
            raise _error(what, _find(directory, f"{part}-labels-idx1-ubyte"), AGAIN)
        datasets.append(TensorDataset(_normalised(images / 255, mean=0.286, deviation=0.353), labels))
    return datasets[0], datasets[1]


def _load_digits() -> Datasets:
    import torch
    from sklearn.datasets import load_digits
    from torch.utils.data import TensorDataset

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)
    images = _normalised(images / 16, mean=0.305, deviation=0.376)
    labels = torch.from_numpy(targets).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[labels.argsort(stable=True)[::5]] = True  # every fifth of each class; no random numbers
    return TensorDataset(images[~held_out], labels[~held_out]), TensorDataset(images[held_out], labels[held_out])


def _normalised(images: Tensor, mean: float, deviation: float) -> Tensor:
    return (images - mean) / deviation
