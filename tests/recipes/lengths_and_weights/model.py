"""A classifier of sequences."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means
from sequences import KINDS, PADDING, VOCABULARY, Batch

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


def batch_loss(model: nn.Module, batch: Batch) -> Means:
    """The loss of a batch, over its samples."""
    scores = model(batch["tokens"], batch["is_token"])
    return {"loss": Mean(cross_entropy(scores, batch["labels"], reduction="sum"), len(scores))}


def batch_scores(model: nn.Module, batch: Batch) -> Means:
    """How many classes are told correctly, and of each class how many."""
    labels = batch["labels"]
    correct = model(batch["tokens"], batch["is_token"]).argmax(dim=1) == labels
    recalls = {
        f"recall_{kind}": Mean(correct[labels == kind].sum(), (labels == kind).sum()) for kind in range(KINDS)
    }
    return {"accuracy": Mean(correct.sum(), len(labels)), **recalls}


class Classifier(nn.Module):
    """Looks at each token among its neighbours, and takes the mean over the sequence."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width, padding_idx=PADDING)
        self.neighbours = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.scores = nn.Sequential(nn.GELU(), nn.Dropout(0.1), nn.Linear(width, KINDS))

    def forward(self, tokens: Tensor, is_token: Tensor) -> Tensor:
        """Takes int64 and bool (batch, length), returns scores, float (batch, KINDS)."""
        hidden = self.neighbours(self.tokens(tokens).transpose(1, 2)) * is_token[:, None]
        scores: Tensor = self.scores(hidden.sum(dim=2) / is_token.sum(dim=1, keepdim=True))
        return scores


MODELS: dict[str, Callable[[], nn.Module]] = {"classifier": Classifier}
