"""Bakes one project, and makes a training of each recipe of a copy of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from baking import Bake
from recipe_folder import Recipe, recipes

PROJECT_ID = "prj-quiet-river-261124"
ALL = recipes()


@pytest.fixture(scope="session")
def fresh(bake: Bake) -> Path:
    """The project that the defaults give, with an id to submit it under."""
    return bake(isc_project_id=PROJECT_ID)


@pytest.fixture(scope="module", params=ALL, ids=[recipe.name for recipe in ALL])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Each recipe in turn."""
    chosen: Recipe = request.param
    return chosen


@pytest.fixture(scope="module")
def project(recipe: Recipe, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the fresh project with the recipe applied; it is under git, as `check` wants it."""
    copy = Path(shutil.copytree(fresh, tmp_path_factory.mktemp(recipe.name) / fresh.name))
    recipe.apply(copy)
    return copy


def said_by(*command: str | Path, cwd: Path) -> tuple[int, str]:
    """Runs a command; its exit code, and what it said."""
    ended = subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return ended.returncode, ended.stdout
