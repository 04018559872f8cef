"""The data: a text file, DATA_ROOT/DATASET_ID/text.txt, or without a dataset this project's README."""

from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:  # torch takes seconds to import: check_data must answer before that
    from pieces import Pieces

LENGTH = 64  # of a sample, in bytes


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """Says what is wrong with the text before anything slow begins.

    Raises:
        IscError: it is missing.
    """
    file = _file(dataset_id, data_root)
    if not file.is_file():
        raise IscError("There is no text", file, "Choose another --dataset-id.", ExitCode.DATA)


def load_data(dataset_id: str | None, data_root: Path) -> tuple["Pieces", "Pieces"]:
    """Pieces of the text, every tenth held out."""
    import torch

    from pieces import Pieces

    text = torch.frombuffer(bytearray(_file(dataset_id, data_root).read_bytes()), dtype=torch.uint8)
    pieces = text.long().unfold(0, LENGTH, LENGTH // 2)
    held_out = torch.arange(len(pieces)) % 10 == 0
    return Pieces(pieces[~held_out]), Pieces(pieces[held_out])


def _file(dataset_id: str | None, data_root: Path) -> Path:
    return data_root / dataset_id / "text.txt" if dataset_id else Path(__file__).with_name("README.md")
