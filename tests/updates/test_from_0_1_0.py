"""A project of 0.1.0 that somebody has worked on is brought to the present layout by `cruft update`."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from baking import git, passes, run
from history import commit, create, findings, release, replace, train, unpack, update
from make_fixture import COMMITS

SCORES = '''class Scores(nn.Sequential):
    """Mine: more dropout.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Dropout(0.4), nn.Linear(128, classes))


def _block('''
PROBE = '''"""Mine: what do the checkpoints hold?"""

import isc_runtime.distributed as d
from isc_runtime import durable, rng
from isc_runtime.local_store import LocalStore

print(d.Group, durable.Manifest, rng.capture, LocalStore)
'''


@dataclass
class Pair:
    """The repository of the template, at a state of then, and a project that was made from it."""

    template: Path
    project: Path


@pytest.fixture(params=COMMITS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return make_pair(request.param, tmp_path)


def make_pair(state: str, place: Path) -> Pair:
    repository = place / "isc-template"
    shutil.move(unpack(state, place) / "template", repository)
    git("init", "-q", "-b", "main", cwd=repository)
    commit(repository, state)
    return Pair(repository, create(repository, place))


def work_on(project: Path) -> None:
    """A module of a model, a default, a transform and a program of one's own."""
    replace(
        project / "model.py", "nn.Sequential(nn.Dropout(0.2), nn.Linear(128, classes))", "Scores(classes)"
    )
    replace(project / "model.py", "def _block(", SCORES)
    replace(project / "train.py", '"--clip-norm", type=options.positive_float, default=1.0', CLIPPED)
    replace(project / "data.py", "PARTS = (", "CONTRAST = 0.5\nPARTS = (")
    replace(project / "data.py", "TensorDataset(images[mask],", "TensorDataset(images[mask] * CONTRAST,")
    replace(project / "experiment.isc", 'isc_project_id = ""', 'isc_project_id = "prj-brave-otter-251124"')
    (project / "tools").mkdir()
    (project / "tools" / "probe.py").write_text(PROBE)
    commit(project, "My work")


CLIPPED = '"--clip-norm", type=options.positive_float, default=0.5'


def test_the_work_stays_the_layout_is_the_present_one_and_the_training_goes_on(
    pair: Pair, template: Path, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    work_on(pair.project)
    train(pair.project, pair.project, "--epochs", "1")
    newest = release(pair.template, template)
    update(pair.project)

    assert json.loads((pair.project / ".cruft.json").read_text())["commit"] == newest
    assert_all_is_there(pair.project, project)
    assert_the_work_is_there(pair.project)
    settle_imports(pair.project)
    commit(pair.project, "Updated")
    assert findings(pair.project) == {}
    passes(sys.executable, "tools/probe.py", cwd=pair.project, PYTHONPATH=str(pair.project))
    cache = str(tmp_path_factory.getbasetemp() / "mypy")  # of all states: what takes time is torch
    passes("make", "lint", f"PYTHON={sys.executable}", cwd=pair.project, MYPY_CACHE_DIR=cache)
    log = train(pair.project, pair.project, "--epochs", "2")
    assert re.search(r"Resumed from .*: step 45, epoch 1, batch 0", log), log
    assert "Training is complete" in log


def assert_all_is_there(updated: Path, fresh: Path) -> None:
    """The files are those of a new project and the user's own: nothing is missing, nothing old is left."""
    names = set(git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=updated).split("\0"))
    names = {name for name in names if name and (updated / name).is_file()} - {".cruft.json"}
    new = {str(file.relative_to(fresh)) for file in fresh.rglob("*") if file.is_file()}
    new = {name for name in new if not name.startswith(".git/")} - {".cruft.json"}
    assert names - new == {"tools/probe.py"}
    assert new - names == set()
    changed = {name for name in new if content(updated / name) != content(fresh / name)}
    assert changed == {"data.py", "experiment.isc", "model.py", "train.py"}


def content(file: Path) -> bytes:
    """What is in a file, without the template's commit: two repositories have two."""
    return re.sub(rb"\.dev\+\w+", b"", file.read_bytes())


def assert_the_work_is_there(updated: Path) -> None:
    texts = {
        name: (updated / name).read_text() for name in ("data.py", "experiment.isc", "model.py", "train.py")
    }
    assert SCORES in texts["model.py"]
    assert "self.scores = Scores(classes)" in texts["model.py"]
    assert CLIPPED in texts["train.py"]
    assert "images[mask] * CONTRAST" in texts["data.py"]
    assert "prj-brave-otter-251124" in texts["experiment.isc"]
    assert not [name for name, text in texts.items() if "<<<<<<<" in text]


def settle_imports(updated: Path) -> None:
    """Does what the check says of the program of one's own, word for word."""
    file = updated / "tools" / "probe.py"
    lines = file.read_text().splitlines()
    found = findings(updated)
    assert found.keys() == {f"tools/probe.py:{number}" for number in (3, 4, 5)}
    for where, text in found.items():
        written = re.search(r"Write: (.*)\.$", text)
        assert written, text
        ast.parse(written[1])
        number = int(where.partition(":")[2]) - 1
        rest = "\nfrom isc_runtime import rng" if "rng" in lines[number] else ""
        lines[number] = written[1] + rest
    file.write_text("\n".join(lines) + "\n")
    passes(sys.executable, "-m", "ruff", "check", "--fix", "--no-cache", "tools", cwd=updated)


def test_what_both_have_changed_is_named_by_the_check(template: Path, tmp_path: Path) -> None:
    pair = make_pair("0.1.0", tmp_path)
    replace(pair.project / "train.py", "default=15", "default=7")
    commit(pair.project, "My work")
    release(pair.template, template)
    assert "conflict" in update(pair.project)
    text = (pair.project / "train.py").read_text()
    assert "default=7" in text
    line = text[: text.index("<<<<<<<")].count("\n") + 1
    found = findings(pair.project)
    assert [where for where in found if where.startswith("train.py")] == [f"train.py:{line}"]
    assert "delete the lines that begin with <<<<<<<" in found[f"train.py:{line}"]


def test_an_old_module_that_was_changed_is_left_and_named(template: Path, tmp_path: Path) -> None:
    """git can merge nothing then: cruft falls back to what leaves rejected changes in files of their own."""
    pair = make_pair("0.1.0", tmp_path)
    for name in ("isc_runtime/project.py", "tests/test_distributed.py", "tests/test_model.py"):
        file = pair.project / name
        file.write_text(file.read_text() + "# mine\n")
    commit(pair.project, "My work")
    release(pair.template, template)
    assert "Project directory may have *.rej files" in update(pair.project)
    found = findings(pair.project)
    assert "isc_runtime/submission/project.py now" in found["isc_runtime/project.py"]
    assert "isc_runtime.ranks.group now" in found["tests/test_distributed.py:12"]
    rejected = [where for where in found if where.endswith(".rej")]
    assert rejected
    assert all((pair.project / name).is_file() for name in rejected)
    result = run(sys.executable, "-m", "isc_runtime", "check", cwd=pair.project)
    assert "Traceback" not in result.stderr
