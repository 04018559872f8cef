"""A small GPT, which foresees the next byte."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

BEST = Best("loss", more_is_better=False)
VOCABULARY = 256  # bytes


def build_model(name: str | None = None) -> nn.Module:
    """Builds a model by its name in MODELS.

    Raises:
        IscError: there is no model of this name.
    """
    name = name or next(iter(MODELS))
    if name not in MODELS:
        raise IscError("There is no such model", name, f"Choose one of {', '.join(MODELS)}.", ExitCode.USAGE)
    return MODELS[name]()


def batch_loss(model: nn.Module, batch: tuple[Tensor]) -> Means:
    """The loss of a batch of text, int64 (batch, length), over its tokens."""
    (text,) = batch
    following = text[:, 1:]
    return {"loss": Mean(cross_entropy(model(text[:, :-1]), following, reduction="sum"), following.numel())}


def batch_scores(model: nn.Module, batch: tuple[Tensor]) -> Means:
    """The same of held-out text, and among how many bytes the model hesitates in the mean."""
    loss = batch_loss(model, batch)["loss"]
    return {"loss": loss, "perplexity": Mean(loss.total, loss.count, then=math.exp)}


class GPT(nn.Module):
    """A causal transformer.

    Args:
        width: of a token; a multiple of the heads.
        depth: how many blocks.
        heads: of the attention.
        longest: text.
    """

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 4, longest: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.scores = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCABULARY))

    def forward(self, text: Tensor) -> Tensor:
        """Takes int64 (batch, length), scores each next byte: float (batch, VOCABULARY, length)."""
        hidden: Tensor = self.tokens(text) + self.places(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            hidden = block(hidden)
        scores: Tensor = self.scores(hidden)
        return scores.transpose(1, 2)


class Block(nn.Module):
    """Attention to what came before, and a small network, each added to what it gets."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Float (batch, length, width), and the same again."""
        split = self.queries_keys_values(self.attention_norm(hidden)).unflatten(2, (3, self.heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, width / heads)
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        hidden = hidden + self.mix(attended.transpose(1, 2).flatten(2))
        result: Tensor = hidden + self.network(self.network_norm(hidden))
        return result


MODELS: dict[str, Callable[[], nn.Module]] = {"gpt": GPT}
