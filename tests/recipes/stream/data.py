"""The data: text files one after the other, DATA_ROOT/DATASET_ID/*.txt, or without a dataset this README."""

from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:  # torch takes seconds to import: check_data must answer before that
    from torch import Tensor
    from torch.utils.data import Dataset


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """Says what is wrong with the text before anything slow begins.

    Raises:
        IscError: it is missing.
    """
    if not _files(dataset_id, data_root):
        hint = "Choose another --dataset-id."
        raise IscError("There is no text", data_root / str(dataset_id), hint, ExitCode.DATA)


def load_data(dataset_id: str | None, data_root: Path) -> tuple["Dataset[Tensor]", "Dataset[Tensor]"]:
    """A stream of pieces of text, and a few pieces to evaluate on, from its beginning."""
    from itertools import islice

    from text_stream import Pieces, TextStream

    files = _files(dataset_id, data_root)
    return TextStream(files), Pieces(list(islice(TextStream(files, is_varied=False), 40)))


def _files(dataset_id: str | None, data_root: Path) -> list[Path]:
    return (
        sorted((data_root / dataset_id).glob("*.txt"))
        if dataset_id
        else [Path(__file__).with_name("README.md")]
    )
