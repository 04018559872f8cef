"""Pieces of text as models of Hugging Face take them."""

from torch import Tensor
from torch.utils.data import Dataset


class Pieces(Dataset[dict[str, Tensor]]):
    """Of each piece its tokens, and the same as labels.

    Args:
        pieces: int64 (number, length).
    """

    def __init__(self, pieces: Tensor) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.pieces[index], "labels": self.pieces[index]}
