"""A model.py of another kind than the template's: a small language model, which foresees characters."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

BEST = Best("perplexity", more_is_better=False)
VOCABULARY = 128  # ASCII


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
    """The loss of a batch: characters, int64 (batch, length), and the same one character further on."""
    tokens, following = batch
    return {"loss": Mean(cross_entropy(model(tokens), following, reduction="sum"), following.numel())}


def batch_scores(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Means:
    """How many characters it hesitates between, in the mean."""
    loss = batch_loss(model, batch)["loss"]
    return {"perplexity": Mean(loss.total, loss.count, math.exp)}


class LanguageModel(nn.Module):
    """A causal transformer over characters."""

    def __init__(self, width: int = 32, depth: int = 2, longest: int = 64) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True) for _ in range(depth)
        )
        self.scores = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Takes int64 (batch, length), scores each next character: float (batch, VOCABULARY, length)."""
        length = tokens.shape[1]
        hidden: Tensor = self.characters(tokens) + self.places(torch.arange(length, device=tokens.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        scores: Tensor = self.scores(hidden)
        return scores.transpose(1, 2)


MODELS: dict[str, Callable[[], nn.Module]] = {"characters": LanguageModel}
