"""A small recurrent network, which foresees the next byte."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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


def batch_loss(model: nn.Module, text: Tensor) -> Means:
    """The loss of a batch of text, int64 (batch, length), over its tokens."""
    following = text[:, 1:]
    return {"loss": Mean(cross_entropy(model(text[:, :-1]), following, reduction="sum"), following.numel())}


def batch_scores(model: nn.Module, text: Tensor) -> Means:
    """The same of held-out text."""
    return batch_loss(model, text)


class Recurrent(nn.Module):
    """A GRU over bytes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.memory = nn.GRU(width, width, batch_first=True)
        self.scores = nn.Linear(width, VOCABULARY)

    def forward(self, text: Tensor) -> Tensor:
        """Takes int64 (batch, length), scores each next byte: float (batch, VOCABULARY, length)."""
        hidden, _ = self.memory(self.tokens(text))
        scores: Tensor = self.scores(hidden)
        return scores.transpose(1, 2)


MODELS: dict[str, Callable[[], nn.Module]] = {"recurrent": Recurrent}
