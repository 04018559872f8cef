"""A training of another kind is put in, a small language model on text: the runtime's tests do not notice."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from test_combinations import COMBINATIONS

from baking import Bake, passes, run

HERE = Path(__file__).parent
# What a researcher changes in train.py for it.
EDITS = {
    'default="convnet"': 'default="characters"',
    "hits[:counted].sum()": "hits[:counted].float().mean(dim=1).sum()",
    "held-out accuracy": "characters foreseen",
}
MAKE = ("make", f"PYTHON={sys.executable}")


@pytest.fixture(scope="module")
def project(bake: Bake) -> Path:
    """Baked with answers that are not the defaults, and changed."""
    project = bake(hooks=True, project_slug="a_sample-2", project_name='Ünï "cødé" 🦊', **COMBINATIONS[-1])
    shutil.copy(HERE / "language_model.py", project / "model.py")
    shutil.copy(HERE / "text.py", project / "data.py")
    text = (project / "train.py").read_text()
    for old, new in EDITS.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (project / "train.py").write_text(text)
    return project


def test_it_trains_and_resumes(project: Path, tmp_path: Path) -> None:
    for epochs in ("2", "5"):
        ended = run(sys.executable, project / "train.py", "--epochs", epochs, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert "Resumed from" in ended.stdout
    foreseen = [float(share) for share in re.findall(r"characters foreseen ([\d.]+)", ended.stdout)]
    assert len(foreseen) == 3
    assert foreseen[-1] > 0.15, "the commonest character alone is fewer"


def test_lint_passes(project: Path) -> None:
    passes(*MAKE, "lint", cwd=project)


def test_the_runtime_s_tests_pass(project: Path) -> None:
    passes(*MAKE, "test-runtime", cwd=project)


def test_the_example_s_tests_fail_and_no_others(project: Path) -> None:
    """They are the ones to change with it."""
    ended = run(*MAKE, "test", cwd=project)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+?)(?:::|$| )", ended.stdout, re.MULTILINE)
    assert ended.returncode != 0
    assert {"tests/test_model.py", "tests/test_data.py", "tests/test_train.py"} == set(failed)
