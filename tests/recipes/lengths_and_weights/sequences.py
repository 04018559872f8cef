"""Sequences of tokens of three kinds. The class of a sequence is the kind of which it has most."""

from collections import Counter
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

KINDS = 3
SHARES = (0.8, 0.15, 0.05)  # of the classes
VOCABULARY = 30  # tokens; the kind of one is its remainder by KINDS
PADDING, HIDDEN = 0, 1
HIDE = 0.1  # so many of the tokens

Sample = tuple[Tensor, int]  # tokens, int64 (length,), and the class


class Batch(TypedDict):
    """What a model gets.

    Attributes:
        tokens: int64 (batch, length), the shorter sequences padded.
        is_token: bool (batch, length), False at what is padded.
        labels: int64 (batch,).
    """

    tokens: Tensor
    is_token: Tensor
    labels: Tensor


class Sequences(Dataset[Sample]):
    """Samples in memory."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def samples(count: int, seed: int) -> Sequences:
    """So many samples, the same ones each time."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for label in torch.multinomial(torch.tensor(SHARES), count, True, generator=generator).tolist():
        length = int(torch.randint(4, 24, (), generator=generator))
        kinds = torch.randint(KINDS, (length,), generator=generator)
        kinds[torch.rand(length, generator=generator) < 0.5] = label
        made.append(
            (KINDS * torch.randint(1, VOCABULARY // KINDS, (length,), generator=generator) + kinds, label)
        )
    return Sequences(made)


def weights(samples: Sequences) -> list[float]:
    """One for each sample: with them all classes are drawn equally often."""
    counts = Counter(label for _, label in samples.samples)
    return [1 / counts[label] for _, label in samples.samples]


def padded(samples: list[Sample]) -> Batch:
    """A batch as long as its longest sequence, some of its tokens hidden."""
    tokens = pad_sequence([tokens for tokens, _ in samples], batch_first=True, padding_value=PADDING)
    is_token = tokens != PADDING
    tokens = torch.where((torch.rand(tokens.shape) < HIDE) & is_token, HIDDEN, tokens)
    return {"tokens": tokens, "is_token": is_token, "labels": torch.tensor([label for _, label in samples])}
