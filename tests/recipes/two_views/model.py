"""An encoder and a projection head, which learn to tell whether two views are of one image (SimCLR)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

BEST = Best("found", more_is_better=True)
TEMPERATURE = 0.2


def build_model(name: str | None = None) -> nn.Module:
    """Builds a model by its name in MODELS.

    Raises:
        IscError: there is no model of this name.
    """
    name = name or next(iter(MODELS))
    if name not in MODELS:
        raise IscError("There is no such model", name, f"Choose one of {', '.join(MODELS)}.", ExitCode.USAGE)
    return MODELS[name]()


def batch_loss(model: nn.Module, views: tuple[Tensor, Tensor]) -> Means:
    """The loss of a batch: two views of each image, float (batch, channels, height, width)."""
    one, other = model(views[0]), model(views[1])
    samples = torch.arange(len(one), device=one.device)
    scores = one @ other.T / TEMPERATURE
    loss = cross_entropy(scores, samples, reduction="sum") + cross_entropy(scores.T, samples, reduction="sum")
    return {"loss": Mean(loss / 2, len(one))}


def batch_scores(model: nn.Module, views: tuple[Tensor, Tensor]) -> Means:
    """Of how many images the second view is, of all in the batch, the most similar to the first one."""
    nearest = (model(views[0]) @ model(views[1]).T).argmax(dim=1)
    return {"found": Mean((nearest == torch.arange(len(nearest), device=nearest.device)).sum(), len(nearest))}


class Contrastive(nn.Module):
    """An encoder, which is kept, and a head that is needed for the training alone.

    Args:
        width: of what the encoder says of an image.
        projected: width of what is compared.
    """

    def __init__(self, width: int = 32, projected: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projected))

    def forward(self, images: Tensor) -> Tensor:
        """Takes float (batch, 1, height, width), returns float (batch, projected) of length 1."""
        return normalize(self.head(self.encoder(images).mean(dim=(2, 3))), dim=1)


MODELS: dict[str, Callable[[], nn.Module]] = {"contrastive": Contrastive}
