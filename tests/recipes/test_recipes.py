"""Each recipe trains, is killed twice, and ends as if it had not been; no check finds fault with it."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

from conftest import said_by
from isc_runtime.position import Position
from isc_runtime.tests.processes import IMPORTED_ONCE, Ended, Place, differences, run_forked
from recipe_folder import Recipe, changed_lines


def test_train_py_changes_in_few_lines(recipe: Recipe, fresh: Path, project: Path) -> None:
    before, after = ((place / "train.py").read_text() for place in (fresh, project))
    assert changed_lines(before, after) <= recipe.lines


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_twice_it_ends_as_if_it_had_not_been(
    recipe: Recipe, project: Path, tmp_path: Path, ranks: int
) -> None:
    """Every leaf of the final state, bit for bit."""
    whole, killed = (Place(tmp_path / name, script=project / "train.py") for name in ("whole", "killed"))
    assert [ended.code for ended in train(whole, recipe, ranks)] == [0] * ranks, story(whole)
    for step in recipe.kills:
        assert [ended.code for ended in train(killed, recipe, ranks, kill_at=step)] == [
            -signal.SIGKILL
        ] * ranks, story(killed)
    last = train(killed, recipe, ranks)
    assert [ended.code for ended in last] == [0] * ranks, story(killed)
    assert 0 < last[0].steps("Resumed from")[0] < recipe.kills[-1]
    assert "[STATE]" not in last[0].output, "nothing is left out, nor seems to be"
    one, other = whole.newest(), killed.newest()
    assert one["sampler"]["step"] > recipe.kills[-1], "killed after its end"
    assert differences(one, other) == []


def train(place: Place, recipe: Recipe, ranks: int, kill_at: int | None = None) -> list[Ended]:
    """Trains to the end, or until each rank has done a step and dies of it."""
    place.path.mkdir(exist_ok=True)
    for name in IMPORTED_ONCE:
        importlib.import_module(name)

    def work() -> None:
        place.enter()
        if kill_at is not None:
            die_at(kill_at)
        sys.argv = [str(place.script), *recipe.arguments]
        sys.path.insert(0, str(place.script.parent))
        runpy.run_path(str(place.script), run_name="__main__")

    return run_forked(place.path, work, ranks)


def die_at(step: int) -> None:
    """From now on this process is killed when the training counts that step, before it saves it."""
    count = Position._count

    def count_and_die(self: Position, consumed: int) -> None:
        count(self, consumed)
        if self.progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Position._count = count_and_die  # type: ignore[method-assign]


def story(place: Place) -> str:
    """What all ranks said in the last run."""
    return "\n".join(f"--- {file.name}\n{file.read_text()}" for file in sorted(place.path.glob("rank*.txt")))


def test_the_rehearsal_says_ready(recipe: Recipe, project: Path) -> None:
    code, said = said_by(
        *(sys.executable, "-m", "isc_runtime", "rehearse", "--stand-in", "--nodes", "1", "--cycles", "2"),
        *("--", *recipe.arguments),
        cwd=project,
    )
    assert code == 0, said
    assert "bit for bit" in said


def test_the_check_finds_no_error(recipe: Recipe, project: Path) -> None:
    code, said = said_by(sys.executable, "-m", "isc_runtime", "check", "--json", cwd=project)
    errors = [finding for finding in json.loads(said)["findings"] if finding["severity"] == "error"]
    assert (code, errors) == (0, [])


def test_the_project_s_lint_passes(
    recipe: Recipe, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All projects are at the same place for mypy, so that it looks at the runtime once."""
    caches = tmp_path_factory.getbasetemp() / "caches"
    for command in (
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        ("mypy", "--cache-dir", str(caches / "mypy"), "."),
    ):
        code, said = said_by(sys.executable, "-m", *command, cwd=project)
        assert code == 0, said
