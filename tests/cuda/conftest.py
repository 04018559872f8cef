"""What runs on a GPU, with nothing installed but torch, numpy, pytest and what the runtime imports.

No GPU was at hand when these tests were written: where one fails first, look at the test, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2] / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))


def why_not() -> str:
    """Why nothing here can run; empty if it can."""
    import torch

    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    return "" if torch.cuda.is_available() else "CUDA finds no GPU that it can use"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips all of it, with the reason."""
    if reason := why_not():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))
