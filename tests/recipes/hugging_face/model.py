"""A GPT-2 of Hugging Face's, small and without weights of its own, on bytes."""

import math
from collections.abc import Callable

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Best, Mean, Means

BEST = Best("loss", more_is_better=False)
SMALL = GPT2Config(vocab_size=256, n_positions=64, n_embd=32, n_layer=2, n_head=4)


def build_model(name: str | None = None) -> nn.Module:
    """Builds a model by its name in MODELS.

    Raises:
        IscError: there is no model of this name.
    """
    name = name or next(iter(MODELS))
    if name not in MODELS:
        raise IscError("There is no such model", name, f"Choose one of {', '.join(MODELS)}.", ExitCode.USAGE)
    return MODELS[name]()


def batch_loss(model: nn.Module, batch: dict[str, Tensor]) -> Means:
    """The loss of a batch of text, over the tokens that the model foresees: all but the first."""
    count = batch["labels"][:, 1:].numel()
    return {"loss": Mean(model(**batch)["loss"] * count, count)}


def batch_scores(model: nn.Module, batch: dict[str, Tensor]) -> Means:
    """The same of held-out text, and among how many bytes the model hesitates in the mean."""
    loss = batch_loss(model, batch)["loss"]
    return {"loss": loss, "perplexity": Mean(loss.total, loss.count, then=math.exp)}


MODELS: dict[str, Callable[[], nn.Module]] = {"gpt2": lambda: GPT2LMHeadModel(SMALL)}
