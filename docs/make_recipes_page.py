"""Writes into bring-your-own-training.md what it shows of the recipes: the files that tests/recipes tests.

python docs/make_recipes_page.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("bring-your-own-training.md")
MARK = "<!-- From here on: docs/make_recipes_page.py, from tests/recipes -->\n"

sys.path.insert(0, str(ROOT / "tests" / "recipes"))

from recipe_folder import PATCH, Recipe, recipes  # noqa: E402


def page_of(text: str) -> str:
    """The page as it should be: what people wrote in `text`, and the recipes as they are."""
    written, mark, _ = text.partition(MARK)
    return written + mark + "\n" + "\n".join(map(section, recipes()))


def section(recipe: Recipe) -> str:
    """What is shown of a recipe."""
    parts = [f"## {recipe.title}\n", recipe.text.strip() + "\n"]
    if not any(recipe.target(file) == "train.py" for file in recipe.files):
        parts.append("`train.py` stays as it is.\n")
    parts += [shown(recipe, file) for file in sorted(recipe.files, key=lambda file: file.suffix != PATCH)]
    return "\n".join(parts)


def shown(recipe: Recipe, file: Path) -> str:
    """A file: what it changes, or what it is."""
    name, text, is_patch = recipe.target(file), file.read_text(), file.suffix == PATCH
    kind, what = ("diff", "changed") if is_patch else (file.suffix[1:].replace("py", "python"), "whole")
    return (
        f"<details{' open' if is_patch else ''}><summary><code>{name}</code>, {what}</summary>\n\n"
        f"```{kind}\n{text.rstrip()}\n```\n\n</details>\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page_of(PAGE.read_text()))
