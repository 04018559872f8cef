"""Which cycling_utils the tests use: one and the same, in the processes that they start as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cycling_utils

from isc_runtime.tests.cycling_utils_choice import STAND_IN, install
from isc_runtime.tests.processes import PROJECT, Place

HERE = "isc_runtime/tests"
# What fails when a process that a test starts meets another one, or none.
THAT_NEED_IT = (
    f"{HERE}/test_cycling_utils_choice.py::test_the_choice_is_what_is_imported",
    f"{HERE}/test_preflight.py::test_a_fit_place_passes_and_says_what_was_checked",
)


def test_the_choice_is_what_is_imported(tmp_path: Path) -> None:
    file = cycling_utils.__file__ or ""
    assert install() == ("stand-in" if Path(file).is_relative_to(STAND_IN) else "real")
    script = tmp_path / "script.py"
    script.write_text("import cycling_utils; print(cycling_utils.__file__)")
    assert Place(tmp_path, script=script).run().output.strip() == file


def run_tests(python_path: str | Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Runs tests with CYCLING_UTILS=real."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *tests],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(python_path), "CYCLING_UTILS": "real"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_real_one_may_be_given_by_pythonpath(tmp_path: Path) -> None:
    """A package somewhere else is the real one, whatever is in it. The processes work in other folders."""
    shutil.copytree(STAND_IN, tmp_path / "elsewhere")
    ended = run_tests(os.path.relpath(tmp_path / "elsewhere", PROJECT), *THAT_NEED_IT)
    assert ended.returncode == 0, ended.stdout
    assert "cycling_utils: real" in ended.stdout
    assert "3 passed" in ended.stdout


def test_the_stand_in_is_not_taken_for_the_real_one() -> None:
    ended = run_tests(STAND_IN, *THAT_NEED_IT)
    assert ended.returncode != 0
    assert f"CYCLING_UTILS=real, and the stand-in comes first: take {STAND_IN} off PYTHONPATH" in ended.stderr
