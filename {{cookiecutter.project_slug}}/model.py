"""The models, and what is trained. Yours to change; train.py needs four things from here:

- `build_model(name)` makes a model. What it keeps in an `nn.ModuleList` are its blocks, which
  `--parallelism fsdp`, `--checkpoint-activations` and `--compile` treat one by one.
- `batch_loss(model, batch)` says what is minimised.
- `batch_scores(model, batch)` says how good the model is on held-out data.
- `BEST` says which of the scores decides what is best.

A batch is what the dataset in data.py makes of its samples: here a pair of images and labels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

BEST = Best("accuracy", more_is_better=True)


def build_model(name: str | None = None) -> nn.Module:
    """Builds a model, with weights from torch's default random number generator.

    Args:
        name: in MODELS; None is the first one.

    Raises:
        IscError: there is no model of this name.
    """
    name = name or next(iter(MODELS))
    if name not in MODELS:
        hint = f"Choose one of {', '.join(MODELS)}, or add yours to MODELS in model.py."
        raise IscError("There is no such model", f"--model {name}", hint, ExitCode.USAGE)
    return MODELS[name]()


def batch_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    """The loss of a batch, to be minimised.

    Args:
        model: what to call; in parallel training it is wrapped.
        batch: images, float (batch, channels, height, width), and labels, int64 (batch,).

    Returns:
        "loss", its total differentiable and summed over what it counts, here the samples; and whatever else
        is good to see in the log.
    """
    images, labels = batch
    return {"loss": Mean(cross_entropy(model(images), labels, reduction="sum"), len(labels))}


def batch_scores(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    """How good the model is on a batch of held-out data, which may be smaller than those of training.

    Returns:
        Sums and counts by name, the one that BEST names among them.
    """
    images, labels = batch
    return {"accuracy": Mean((model(images).argmax(dim=1) == labels).sum(), len(labels))}


class ConvNet(nn.Module):
    """A small convolutional network for images of any size: 8 x 8, 28 x 28 or other.

    Args:
        channels: of the images.
        classes: how many there are.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(channels, 32), _block(32, 64, stride=2), _block(64, 128))
        self.scores = nn.Sequential(nn.Dropout(0.2), nn.Linear(128, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Scores every class.

        Args:
            images: float (batch, channels, height, width).

        Returns:
            The scores, not yet probabilities: float (batch, classes).
        """
        # The mean takes images of any size, and unlike adaptive pooling it is deterministic on CUDA.
        features: Tensor = self.features(images)
        scores: Tensor = self.scores(features.mean(dim=(2, 3)))
        return scores


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1),
        # Not BatchNorm: one NaN would spoil its running statistics for good, and ranks disagree on them.
        nn.GroupNorm(8, outputs),
        nn.ReLU(),
    )


class Transformer(nn.Module):
    """A small vision transformer (https://arxiv.org/abs/2010.11929) for images of any size.

    Args:
        channels: of the images.
        classes: how many there are.
        width: of a token; a multiple of 4 and of the heads.
        depth: how many blocks.
        heads: of the attention.
        patch: side of the square of pixels that makes a token.
    """

    def __init__(
        self, channels: int, classes: int, width: int = 64, depth: int = 4, heads: int = 4, patch: int = 2
    ) -> None:
        super().__init__()
        self.tokens = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.patch = patch
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Scores every class.

        Args:
            images: float (batch, channels, height, width); edges that make no whole patch are padded.

        Returns:
            The scores, not yet probabilities: float (batch, classes).
        """
        height, width = images.shape[2:]
        images = nn.functional.pad(images, (0, -width % self.patch, 0, -height % self.patch))
        grid: Tensor = self.tokens(images)
        grid = grid + _positions(grid)
        tokens = grid.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        scores: Tensor = self.scores(self.norm(tokens).mean(dim=1))
        return scores


class TransformerBlock(nn.Module):
    """Attention between the tokens, then a network for each of them.

    Args:
        width: of a token.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Float (batch, tokens, width), and the same again."""
        split = self.queries_keys_values(self.attention_norm(tokens)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, width / heads)
        attended = scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        tokens = tokens + self.mix(attended)
        result: Tensor = tokens + self.network(self.network_norm(tokens))
        return result


def _positions(grid: Tensor) -> Tensor:
    """Where each token is: sines and cosines of row and column, (width, rows, columns) as in `grid`."""
    width, rows, columns = grid.shape[1:]
    frequencies = 100 ** -torch.linspace(0, 1, width // 4, device=grid.device)
    down = torch.arange(rows, device=grid.device)[None, :, None] * frequencies[:, None, None]
    along = torch.arange(columns, device=grid.device)[None, None, :] * frequencies[:, None, None]
    waves = [down.sin(), down.cos(), along.sin(), along.cos()]
    return torch.cat([wave.expand(-1, rows, columns) for wave in waves]).to(grid.dtype)


# What --model chooses from; the first one is the default.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "convnet": lambda: ConvNet(channels=1, classes=10),
    "transformer": lambda: Transformer(channels=1, classes=10),
}
