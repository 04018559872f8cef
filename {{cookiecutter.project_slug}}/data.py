"""The data. Yours to change: train.py needs `check_data` and `load_data`, and nothing else from here.

Without a dataset id these are the handwritten digits that scikit-learn ships: 1797 images of 8 x 8. With one,
Fashion-MNIST's files, or others in their format: https://github.com/zalandoresearch/fashion-mnist#get-the-data
"""

import gzip
import importlib.util
import math
import struct
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:  # torch and scikit-learn take seconds to import: check_data must answer before that
    from torch.utils.data import TensorDataset

CLASSES = 10
FOLDERS = ("FashionMNIST/raw", "raw", "")  # where torchvision puts the files, and where people do
PARTS = ("train", "t10k")  # training and held-out, as Fashion-MNIST's files are named

HINT = "Fetch it again, make it readable, or choose another --dataset-id."

_error = partial(IscError, hint=HINT, exit_code=ExitCode.DATA)


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """Says what is wrong with the data before anything slow begins. It reads headers, and no images.

    Args:
        dataset_id: a directory in `data_root`; None means the digits of scikit-learn.
        data_root: the directory of the datasets.

    Raises:
        IscError: the data are missing, cannot be read or are malformed.
    """
    if dataset_id is not None:
        for part in PARTS:
            _read_part(data_root / dataset_id, part, whole=False)
    else:
        _digits_file()


def load_data(dataset_id: str | None, data_root: Path) -> tuple["TensorDataset", "TensorDataset"]:
    """Loads what `check_data` checks: the same on every rank and in every run.

    Returns:
        The training and the held-out dataset. An item is an image, float32 (1, height, width) with values of
        mean 0 and standard deviation 1 or so, and a label, int64 from 0 to 9.

    Raises:
        IscError: the data are missing, cannot be read or are malformed.
    """
    import numpy as np
    import torch
    from torch.utils.data import TensorDataset

    if dataset_id is None:
        table = torch.from_numpy(np.loadtxt(_digits_file(), delimiter=",", dtype=np.float32))
        images = (table[:, :64].reshape(-1, 1, 8, 8) / 16 - 0.305) / 0.376
        labels = table[:, 64].long()
        held_out = torch.zeros(len(labels), dtype=torch.bool)
        held_out[labels.argsort(stable=True)[::5]] = True  # every fifth of each class, whatever the seed
        datasets = [TensorDataset(images[mask], labels[mask]) for mask in (~held_out, held_out)]
        return datasets[0], datasets[1]
    datasets = []
    for part in PARTS:
        shape, pixel_bytes, label_bytes = _read_part(data_root / dataset_id, part)
        images = torch.frombuffer(pixel_bytes, dtype=torch.uint8).view(shape[0], 1, *shape[1:])
        labels = torch.frombuffer(label_bytes, dtype=torch.uint8).long()
        datasets.append(TensorDataset((images / 255 - 0.286) / 0.353, labels))
    return datasets[0], datasets[1]


def _digits_file() -> Path:
    """The table that `sklearn.datasets.load_digits` reads too; importing that takes longer than to train."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        what = "The package scikit-learn, which brings the digits, is not installed"
        raise _error(what, sys.executable, hint=f"Install it: {sys.executable} -m pip install scikit-learn")
    file = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
    if not file.is_file():
        hint = f"Install it again: {sys.executable} -m pip install --force-reinstall scikit-learn"
        raise _error("The digits are not in the package scikit-learn", file, hint=hint)
    return file


def _read_part(directory: Path, part: str, whole: bool = True) -> tuple[list[int], bytearray, bytearray]:
    """The shape (number, height, width) of a part's images, their pixels, and their labels."""
    shape, pixels = _read(_find(directory, f"{part}-images-idx3-ubyte"), 3, whole)
    labels_file = _find(directory, f"{part}-labels-idx1-ubyte")
    (count,), labels = _read(labels_file, 1, whole)
    if count != shape[0]:
        raise _error(f"The file has {count} labels for {shape[0]} images", labels_file)
    if max(labels, default=0) >= CLASSES:
        raise _error(f"A label is {max(labels)}, and the largest should be {CLASSES - 1}", labels_file)
    return shape, pixels, labels


def _find(directory: Path, name: str) -> Path:
    files = [directory / folder / (name + suffix) for folder in FOLDERS for suffix in ("", ".gz")]
    try:
        if found := [file for file in files if file.exists()]:
            return found[0]
        if directory.is_dir():
            hint = f"It belongs there or in raw or FashionMNIST/raw, as it is or as {name}.gz."
            raise _error("A file of the dataset is missing", directory / name, hint=hint)
        ids = ", ".join(sorted(path.name for path in directory.parent.glob("*") if path.is_dir()))
    except OSError as error:
        raise _error(f"The dataset cannot be read ({error.strerror})", directory) from error
    hint = f"Choose one of {directory.parent} with --dataset-id ({ids or 'it has none'}), or set --data-root."
    raise _error("There is no such dataset", directory, hint=hint)


def _read(file: Path, dimensions: int, whole: bool) -> tuple[list[int], bytearray]:
    """The shape that the header of a file in IDX format tells, and its values if it is read whole."""
    header_size = 4 + 4 * dimensions
    try:
        size = file.stat().st_size
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            header = stream.read(header_size)
            values = bytearray(stream.read() if whole else b"")
    except (OSError, EOFError, zlib.error) as error:  # the last two come from a damaged .gz
        reason = getattr(error, "strerror", None) or error
        raise _error(f"The file cannot be read ({reason})", file) from error
    if len(header) < header_size:
        raise _error(f"The file ends after {len(header)} bytes, within its header", file)
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != 0x0800 + dimensions:  # unsigned bytes in so many dimensions
        raise _error(f"The file's magic number is {magic} and should be {0x0800 + dimensions}", file)
    expected = header_size + math.prod(shape)
    if file.suffix == ".gz":
        size = header_size + len(values) if whole else expected
    if size != expected or 0 in shape:
        raise _error(
            f"The file has {size} bytes, and its header promises {expected}, for {shape} values", file
        )
    return shape, values
