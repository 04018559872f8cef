"""A data.py of another kind than the template's: text, a file of it or the project's own README."""

from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:  # torch takes seconds to import: check_data must answer before that
    from torch.utils.data import TensorDataset

LENGTH = 32  # of a sample, in characters


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """Says what is wrong with the text before anything slow begins.

    Raises:
        IscError: it is missing.
    """
    file = _file(dataset_id, data_root)
    if not file.is_file():
        raise IscError("There is no text", file, "Choose another --dataset-id.", ExitCode.DATA)


def load_data(dataset_id: str | None, data_root: Path) -> tuple["TensorDataset", "TensorDataset"]:
    """Pieces of text, every tenth held out: int64 (LENGTH,), and the same one character further on."""
    import torch
    from torch.utils.data import TensorDataset

    text = _file(dataset_id, data_root).read_bytes()
    tokens = torch.tensor([min(byte, 127) for byte in text])
    pieces = tokens.unfold(0, LENGTH + 1, LENGTH // 2)
    held_out = torch.arange(len(pieces)) % 10 == 0
    parts = [TensorDataset(part[:, :-1], part[:, 1:]) for part in (pieces[~held_out], pieces[held_out])]
    return parts[0], parts[1]


def _file(dataset_id: str | None, data_root: Path) -> Path:
    return data_root / dataset_id / "text" if dataset_id else Path(__file__).with_name("README.md")
