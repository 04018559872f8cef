"""A training of another kind is put in, a small language model on text: the runtime's tests do not notice."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from test_combinations import COMBINATIONS

from baking import Bake, passes, run

OTHER = Path(__file__).parent.parent / "recipes" / "language_model"
# What a researcher changes in train.py besides.
EDITS = {"optim.AdamW(": "optim.NAdam(", 'help="of AdamW"': 'help="of NAdam"'}
MAKE = ("make", f"PYTHON={sys.executable}")


@pytest.fixture(scope="module")
def project(bake: Bake) -> Path:
    """Baked with answers that are not the defaults, and changed."""
    project = bake(hooks=True, project_slug="a_sample-2", project_name='Ünï "cødé" 🦊', **COMBINATIONS[-1])
    for name in ("model.py", "data.py"):
        shutil.copy(OTHER / name, project)
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
    perplexities = [float(value) for value in re.findall(r"\bperplexity ([\d.]+)", ended.stdout)]
    assert len(perplexities) == 3
    assert perplexities[-1] < 60, "a uniform guess has 256"


def test_lint_passes(project: Path) -> None:
    passes(*MAKE, "lint", cwd=project)


def test_the_runtime_s_tests_pass(project: Path) -> None:
    """But for those of checkpoints and of ranks, most of the time: one of their files runs what is a
    project's own, and none imports it (`make lint`). All of them run where the example is in place.
    """
    tests = Path("isc_runtime", "tests")
    others = [tests / "checkpointing"]
    for path in (project / tests / "ranks").iterdir():
        if path.name.startswith(("test_", "launching")) and path.name != "test_reporting.py":
            others.append(path.relative_to(project))
    passes(*MAKE, "test-runtime", cwd=project, PYTEST_ADDOPTS=" ".join(f"--ignore={one}" for one in others))


def test_the_example_s_tests_fail_and_no_others(project: Path) -> None:
    """They are the ones to change with it; of train.py's only the one that says what is to be learned."""
    ended = run(*MAKE, "test", cwd=project)
    assert ended.returncode != 0
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+\.py)(?:::(\w+))?", ended.stdout, re.MULTILINE)
    assert {file for file, _ in failed} == {f"tests/test_{name}.py" for name in ("model", "data", "train")}
    assert [test for file, test in failed if file == "tests/test_train.py"] == ["test_the_digits_are_learned"]
