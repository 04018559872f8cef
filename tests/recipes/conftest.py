"""Bakes one project, and makes a training of each recipe of a copy of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from baking import Bake
from recipe_folder import Recipe, recipes

PROJECT_ID = "prj-quiet-river-261124"
# With pytest-xdist each recipe has a process, which makes its project once.
ALL = [
    pytest.param(recipe, id=recipe.name, marks=pytest.mark.xdist_group(recipe.name)) for recipe in recipes()
]


@pytest.fixture(scope="session")
def fresh(bake: Bake) -> Path:
    """The project that the defaults give, with an id to submit it under."""
    return bake(isc_project_id=PROJECT_ID)


@pytest.fixture(scope="module", params=ALL)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Each recipe in turn."""
    chosen: Recipe = request.param
    return chosen


@pytest.fixture(scope="module")
def project(recipe: Recipe, fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the fresh project with the recipe applied."""
    copy = Path(shutil.copytree(fresh, tmp_path_factory.mktemp(recipe.name) / fresh.name))
    recipe.apply(copy)
    if "pyproject.toml" in map(recipe.target, recipe.files):  # as its user does; it needs the registry
        code, said = said_by("make", "lock", f"PYTHON={sys.executable}", cwd=copy)
        assert code == 0, said
    return copy


def said_by(*command: str | Path, cwd: Path) -> tuple[int, str]:
    """Runs a command; its exit code, and what it said."""
    ended = subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return ended.returncode, ended.stdout
