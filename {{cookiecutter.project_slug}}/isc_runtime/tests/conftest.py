"""Which cycling_utils the tests use, and fixtures that several of them share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.environment import DEVICE, Environment
from isc_runtime.ranks.group import Group
from isc_runtime.tests import cycling_utils_choice

os.environ.setdefault(DEVICE, "cpu")  # asked for by name, for every process of a test
CHOSEN = cycling_utils_choice.install()


def pytest_report_header() -> str:
    """Says in every test log which one it was."""
    return f"cycling_utils: {CHOSEN}"


@pytest.fixture
def group() -> Group:
    """A training alone, on the CPU."""
    return Group(Environment(), torch.device("cpu"))


@pytest.fixture(params=["artifact", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path, group: Group) -> Store:
    """An empty store of each kind."""
    return open_store(request.param, tmp_path, group)


def open_store(kind: str, directory: Path, group: Group) -> Store:
    """Opens a store as a run does when it starts: what it finds is healed."""
    return ArtifactStore(directory, group) if kind == "artifact" else LocalStore(directory, group)
