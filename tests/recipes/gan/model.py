"""A GAN: a generator, which is the model, and a critic that tells its images from real ones."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from isc_runtime.training.means import Best, Mean, Means

BEST = Best("distance", more_is_better=False)
NOISE = 16  # numbers that an image is made of
Batch = tuple[Tensor, Tensor]  # images, float (batch, 1, 8, 8), and labels, of which nothing is made here
Loss = Callable[[nn.Module, Batch], Means]


class Player(NamedTuple):
    """One of the two, and how it is trained.

    Attributes:
        loss: of the replica and a batch.
        replica: what is called in training.
        optimizer: of its parameters alone.
    """

    loss: Loss
    replica: nn.Module
    optimizer: Optimizer


def build_model(name: str | None = None) -> nn.Module:
    """The generator; there is one kind of it, whatever the name."""
    return nn.Sequential(
        nn.Linear(NOISE, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8))
    )


def build_critic() -> nn.Module:
    """The critic: one score for each image, large for real ones."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(64, 1)
    )


def generate(generator: nn.Module, like: Tensor) -> Tensor:
    """As many images as `like` has."""
    images: Tensor = generator(torch.randn(len(like), NOISE, device=like.device))
    return images


def critic_loss(generator: nn.Module, critic: nn.Module, batch: Batch) -> Means:
    """What the critic minimises: that it takes the one for the other.

    It is called once, with both kinds of images: so DistributedDataParallel wants it.
    """
    real, _ = batch
    with torch.no_grad():
        made = generate(generator, real)
    scores = critic(torch.cat([real, made]))
    loss = softplus(-scores[: len(real)]) + softplus(scores[len(real) :])
    return {"loss": Mean(loss.sum(), len(real)), "critic": Mean(loss.sum(), len(real))}


def batch_loss(critic: nn.Module, generator: nn.Module, batch: Batch) -> Means:
    """What the generator minimises: that the critic sees through it."""
    loss = softplus(-critic(generate(generator, batch[0]))).sum()
    return {"loss": Mean(loss, len(batch[0])), "generator": Mean(loss, len(batch[0]))}


def batch_scores(generator: nn.Module, batch: Batch) -> Means:
    """How far a real image is from the nearest of as many that are made."""
    real, _ = batch
    distances = torch.cdist(real.flatten(1), generate(generator, real).flatten(1))
    return {"distance": Mean(distances.amin(dim=1).sum(), len(real))}
