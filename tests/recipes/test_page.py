"""The page of the docs shows the recipes as they are."""

from __future__ import annotations

import re
import runpy

from baking import ROOT
from recipe_folder import recipes

PROGRAM = ROOT / "docs" / "make_recipes_page.py"
PAGE = (ROOT / "docs" / "bring-your-own-training.md").read_text()


def test_the_page_is_up_to_date() -> None:
    assert runpy.run_path(str(PROGRAM))["page_of"](PAGE) == PAGE, f"python {PROGRAM.relative_to(ROOT)}"


def test_the_page_shows_all_recipes_and_their_files() -> None:
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE)[-len(recipes()) :] == [
        recipe.title for recipe in recipes()
    ]
    assert PAGE.count("<details") == sum(len(recipe.files) for recipe in recipes())
