"""What runs on a GPU, with nothing installed but torch, numpy, pytest and what the runtime imports.

No GPU was at hand when these tests were written: where one fails first, look at the test, too. Those that are
marked `anywhere` were seen on a CPU, where they show that they find what they look for.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# torch reads it at its first product on a GPU, once in a process, and one test here asks for exact ones
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

PROJECT = Path(__file__).resolve().parents[2] / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PROJECT))


def why_not() -> str:
    """Why nothing here can run on a GPU; empty if it can."""
    import torch

    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    return "" if torch.cuda.is_available() else "CUDA finds no GPU that it can use"


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marks."""
    config.addinivalue_line("markers", "anywhere: is true of a CPU as well")
    config.addinivalue_line("markers", "gpus(n): needs so many GPUs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here, with the reason."""
    import torch

    reason = why_not()
    for item in items:
        needed = next((mark.args[0] for mark in item.iter_markers("gpus")), 1)
        if reason and item.get_closest_marker("anywhere") is None:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif not reason and torch.cuda.device_count() < needed:
            item.add_marker(pytest.mark.skip(reason=f"it needs {needed} GPUs"))
