"""Two views of an image."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Each image twice, shifted and with noise at random.

    Args:
        images: float (number, channels, height, width).
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._view(self.images[index]), self._view(self.images[index])

    def _view(self, image: Tensor) -> Tensor:
        down, along = torch.randint(-1, 2, (2,)).tolist()
        return image.roll((down, along), dims=(1, 2)) + 0.1 * torch.randn(image.shape)
