"""A convolutional network that stays as it is, and small matrices beside its layers, which are trained."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

BEST = Best("accuracy", more_is_better=True)


def build_model(name: str | None = None) -> nn.Module:
    """Builds a model by its name in MODELS.

    Raises:
        IscError: there is no model of this name.
    """
    name = name or next(iter(MODELS))
    if name not in MODELS:
        raise IscError("There is no such model", name, f"Choose one of {', '.join(MODELS)}.", ExitCode.USAGE)
    return MODELS[name]()


def batch_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    """The loss of a batch: images, float (batch, channels, height, width), and labels, int64 (batch,)."""
    images, labels = batch
    return {"loss": Mean(cross_entropy(model(images), labels, reduction="sum"), len(labels))}


def batch_scores(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    """How many labels are told correctly."""
    images, labels = batch
    return {"accuracy": Mean((model(images).argmax(dim=1) == labels).sum(), len(labels))}


class Adapted(nn.Module):
    """A frozen backbone with adapters, and a new last layer.

    Args:
        classes: how many there are.
        width: of what the backbone says of an image.
        rank: of the adapters.
    """

    def __init__(self, classes: int = 10, width: int = 64, rank: int = 4) -> None:
        super().__init__()
        last = nn.Linear(36 * width, width)
        layers = [nn.Conv2d(1, width, kernel_size=3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), last]
        self.backbone = nn.Sequential(*layers).requires_grad_(False)
        self.backbone[-1] = Adapter(last, rank)
        self.scores = nn.Linear(width, classes)

    def train(self, mode: bool = True) -> "Adapted":
        """The backbone's normalization keeps its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Takes float (batch, 1, 8, 8), returns scores, float (batch, classes)."""
        scores: Tensor = self.scores(self.backbone(images).relu())
        return scores


class Adapter(nn.Module):
    """A linear layer that stays as it is, and beside it two small matrices whose product begins as 0."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, hidden: Tensor) -> Tensor:
        """Float (batch, inputs) to float (batch, outputs)."""
        result: Tensor = self.layer(hidden) + hidden @ self.down.T @ self.up.T
        return result


MODELS: dict[str, Callable[[], nn.Module]] = {"adapted": Adapted}
