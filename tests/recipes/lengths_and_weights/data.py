"""The data: sequences of unequal length, made up here. What is needed of torch is in sequences.py."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import: check_data must answer before that
    from isc_runtime.training.loaders import Data


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """There is nothing that could be missing."""


def load_data(dataset_id: str | None, data_root: Path) -> "Data":
    """Samples of sequences with their classes, the rare ones to be drawn more often."""
    from isc_runtime.training.loaders import Data
    from sequences import padded, samples, weights

    training, held_out = samples(320, seed=0), samples(80, seed=1)
    return Data(training, held_out, collate=padded, weights=weights(training))
