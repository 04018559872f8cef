"""Text as a stream."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

LENGTH = 32  # of a sample, in bytes
BLANK, HIDDEN = ord(" "), ord("_")


class TextStream(IterableDataset[Tensor]):
    """Files, cut into pieces: int64 (LENGTH + 1,).

    Args:
        files: in their order.
        is_varied: whether some blanks are made something else, at random.
    """

    def __init__(self, files: list[Path], is_varied: bool = True) -> None:
        self.files = files
        self.is_varied = is_varied

    def __iter__(self) -> Iterator[Tensor]:
        for file in self.files:
            with file.open("rb") as text:
                while len(piece := text.read(LENGTH + 1)) == LENGTH + 1:
                    yield self._tokens(piece)

    def _tokens(self, piece: bytes) -> Tensor:
        tokens = torch.frombuffer(bytearray(piece), dtype=torch.uint8).long()
        if self.is_varied:
            tokens[(tokens == BLANK) & (torch.rand(len(tokens)) < 0.1)] = HIDDEN
        return tokens


class Pieces(Dataset[Tensor]):
    """Pieces in memory."""

    def __init__(self, pieces: list[Tensor]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Tensor:
        return self.pieces[index]
