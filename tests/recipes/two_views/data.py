"""The data: the digits that scikit-learn ships, each seen twice. What is needed of torch is in views.py."""

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime.errors import ExitCode, IscError

if TYPE_CHECKING:  # torch takes seconds to import: check_data must answer before that
    from views import TwoViews


def check_data(dataset_id: str | None, data_root: Path) -> None:
    """Says what is wrong with the data before anything slow begins.

    Raises:
        IscError: they are missing.
    """
    if importlib.util.find_spec("sklearn") is None:
        hint = f"Install it: {sys.executable} -m pip install scikit-learn"
        raise IscError("scikit-learn, which brings the digits, is not installed", "", hint, ExitCode.DATA)


def load_data(dataset_id: str | None, data_root: Path) -> tuple["TwoViews", "TwoViews"]:
    """The digits, every fifth held out."""
    import torch
    from sklearn.datasets import load_digits

    from views import TwoViews

    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    held_out = torch.arange(len(images)) % 5 == 0
    return TwoViews(images[~held_out]), TwoViews(images[held_out])
