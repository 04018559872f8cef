"""What is known of a project, and that its digest changes with its code and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.submission import facts as module
from isc_runtime.submission.facts import digest, facts
from isc_runtime.tests.submission.test_version_control import git

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "project"
    root.mkdir()
    for name in ("Dockerfile", ".dockerignore", ".gitignore", "requirements.lock"):
        shutil.copy(PROJECT / name, root / name)
    (root / "train.py").write_text("x = 1\n")
    (root / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch==2.13.0", "numpy"]\n[tool.isc-template]\nversion = "9.8.7"\n'
    )
    (root / "experiment.isc").write_text(
        'command = "bash x"\nexperiment_name = "N"\nisc_project_id = "prj-a"\n'
    )
    return root


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)

    return change


CHANGES = {
    "code": write("train.py", "x = 2\n"),
    "new file": write("more.py", ""),
    "launch file": write("experiment.isc", ""),
    "name": lambda root: (root / "train.py").rename(root / "strain.py"),
    "link": lambda root: (root / "link").symlink_to("train.py"),
}
NO_CHANGES = {
    "mode": lambda root: (root / "train.py").chmod(0o777),
    "time": lambda root: os.utime(root / "train.py", (1, 1)),
    "rehearsals": write("rehearsals.jsonl", "{}\n"),
    "submissions": write("submissions.jsonl", "{}\n"),
    "revision": write(".revision", "x"),
    "checkpoints": write("checkpoints/a.pth", "x"),
    "bytecode": write("__pycache__/train.pyc", "x"),
    "secret": write(".env", "x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_code_is_another_digest(root: Path, change: Callable[[Path], None]) -> None:
    before = digest(root)
    change(root)
    assert before != digest(root) is not None


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_the_same_code_is_the_same_digest(root: Path, change: Callable[[Path], object]) -> None:
    before = digest(root)
    change(root)
    assert digest(root) == before is not None


def test_the_launch_file_counts_wherever_the_image_has_it_from(root: Path) -> None:
    write("Dockerfile", "FROM scratch\nCOPY train.py /x/\n")(root)
    before = digest(root)
    write("experiment.isc", "gpus = 1\n")(root)
    assert digest(root) != before


def test_without_a_dockerfile_there_is_no_digest(root: Path) -> None:
    (root / "Dockerfile").unlink()
    assert digest(root) is None


def test_a_large_file_is_not_read_to_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 10)
    monkeypatch.setattr(module, "PART", 5)
    digests = []
    for text in ("aaaaaaaaaaaaa", "aaaaaaaaaaaab", "baaaaaaaaaaaa", "aaaaaaaaaaaaaa", "aaaaaabaaaaaa"):
        write("big", text)(root)
        digests.append(digest(root))
    assert len(set(digests[:4])) == 4
    assert digests[4] == digests[0]


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert digest(root) is not None


def test_what_is_known_without_git(root: Path) -> None:
    known = facts(root)
    assert (known["commit"], known["is_dirty"], known["answers"]) == (None, None, None)
    assert (known["command"], known["experiment_name"], known["isc_project_id"]) == ("bash x", "N", "prj-a")
    assert known["lock"] is not None
    assert {"python", "isc-template", "torch", "numpy"} <= known["versions"].keys()
    assert known["versions"]["isc-template"] == "9.8.7"
    assert json.loads(json.dumps(known)) == known


def test_the_commit_is_known(root: Path) -> None:
    git(root, "init", "-q")
    assert facts(root)["commit"] is None, "there is none yet"
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "first")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    assert (facts(root)["commit"], facts(root)["is_dirty"]) == (head.stdout.strip(), False)
    write("new.py", "")(root)
    assert facts(root)["is_dirty"] is True


@pytest.mark.parametrize(("text", "expected"), [("abc\n", ("abc", False)), ("abc-dirty\n", ("abc", True))])
def test_in_an_image_make_has_told_the_commit(root: Path, text: str, expected: tuple[str, bool]) -> None:
    write(".revision", text)(root)
    assert (facts(root)["commit"], facts(root)["is_dirty"]) == expected


def test_an_image_that_was_not_told(root: Path) -> None:
    write(".revision", "\n")(root)
    assert (facts(root)["commit"], facts(root)["is_dirty"]) == (None, None)


def test_cruft_has_recorded_the_answers(root: Path) -> None:
    answers = {"project_name": "N", "_template": "gh:x/y", "__project_name_ok": "N"}
    write(".cruft.json", json.dumps({"context": {"cookiecutter": answers}}))(root)
    assert facts(root)["answers"] == {"project_name": "N"}


NOT_AS_THEY_SHOULD_BE = (".cruft.json", "pyproject.toml", "experiment.isc", ".revision", "requirements.lock")


@pytest.mark.parametrize("text", ["", "[]", '{"context": 1}', "{", '{"context":' + "[" * 100_000])
def test_files_that_are_not_as_they_should_be_do_no_harm(root: Path, text: str) -> None:
    for name in NOT_AS_THEY_SHOULD_BE:
        write(name, text)(root)
    assert facts(root)["answers"] is None


def test_no_pipe_in_the_place_of_a_file_is_waited_for(root: Path) -> None:
    for name in NOT_AS_THEY_SHOULD_BE:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)
    known = facts(root)
    assert [known[name] for name in ("answers", "lock", "command")] == [None] * 3


def test_a_launch_file_with_other_types_is_no_obstacle(root: Path) -> None:
    write("experiment.isc", "command = 2026-11-24\nisc_project_id = 7\n")(root)
    assert (facts(root)["command"], facts(root)["isc_project_id"]) == (None, None)


def test_an_empty_folder_is_known_too(tmp_path: Path) -> None:
    assert facts(tmp_path)["files"] is None


def test_it_does_not_import_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from isc_runtime.submission.facts import facts\n"
        "facts(Path('.')); assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
