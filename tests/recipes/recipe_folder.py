"""What a recipe is: a folder of files that make another training of a fresh project."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import tomllib

HERE = Path(__file__).parent
ABOUT = "recipe.toml"
PATCH = ".patch"  # of a file of this name without it; everything else is put in as it is
EXAMPLE_TESTS = ("tests/test_data.py", "tests/test_model.py", "tests/test_train.py")  # go with the example


@dataclass(frozen=True)
class Recipe:
    """A training that people bring.

    Attributes:
        name: of its folder.
        order: its place among the others.
        title: what it is.
        text: how it is done, Markdown.
        lines: so many lines of train.py may change.
        arguments: of train.py, for a training of seconds with at least 20 steps.
        kills: the steps at which the training is killed, in this order.
    """

    name: str
    order: int
    title: str
    text: str
    lines: int
    arguments: tuple[str, ...]
    kills: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return HERE / self.name

    @property
    def files(self) -> list[Path]:
        """What is put over the project."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and path.name != ABOUT]
        return sorted(path for path in found if "__pycache__" not in path.parts)

    def target(self, file: Path) -> str:
        """Which file of the project one of `files` makes or changes."""
        return file.relative_to(self.folder).as_posix().removesuffix(PATCH)

    def apply(self, project: Path) -> None:
        """Makes this training of a fresh project."""
        for file in self.files:
            target = project / self.target(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == PATCH:
                subprocess.run(["git", "apply", file], cwd=project, check=True)
            else:
                shutil.copyfile(file, target)
        for name in EXAMPLE_TESTS:
            (project / name).unlink()


def recipes() -> list[Recipe]:
    """All recipes, in order."""
    found = []
    for file in HERE.glob(f"*/{ABOUT}"):
        about = tomllib.loads(file.read_text())
        about["arguments"] = tuple(about["arguments"])
        about["kills"] = tuple(about.get("kills", (7, 16)))
        found.append(Recipe(name=file.parent.name, **about))
    return sorted(found, key=lambda recipe: recipe.order)


def changed_lines(before: str, after: str) -> int:
    """How many lines change: of the lines added and of those removed the larger number."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0))[2:]
    return max(sum(line.startswith(sign) for line in lines) for sign in "+-")
