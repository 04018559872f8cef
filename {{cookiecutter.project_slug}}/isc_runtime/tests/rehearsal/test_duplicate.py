"""The copy that a rehearsal runs in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from isc_runtime.errors import IscError
from isc_runtime.rehearsal.command import localize
from isc_runtime.rehearsal.duplicate import duplicate
from isc_runtime.submission.facts import digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in (
        "train.py",
        "deep/er/x.py",
        "checkpoints/large.pth",
        ".git/config",
        "rehearsals/1/verdict.json",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "Dockerfile").write_text("FROM scratch\nCOPY . .\n")
    (root / ".dockerignore").write_text("**/.git\ncheckpoints\n/rehearsals\n**/.venv\n")
    (root / "launch.sh").write_text("#!/bin/sh\n")
    (root / "launch.sh").chmod(0o755)
    return root


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_it_is_what_the_image_takes(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    copy = duplicate(root, path, 3)
    assert files(path) == {"train.py", "deep/er/x.py", "Dockerfile", ".dockerignore", "launch.sh"}
    assert (copy.files, copy.size) == (
        5,
        sum(path.stat().st_size for path in path.rglob("*.*") if path.is_file())
        + (path / "Dockerfile").stat().st_size,
    )
    assert os.access(path / "launch.sh", os.X_OK)
    assert digest(path) == digest(root)


def test_what_is_deleted_or_changed_there_stays_here(root: Path, tmp_path: Path) -> None:
    (root / ".venv").mkdir()
    (root / ".venv" / "pyvenv.cfg").write_text("home = /usr\n")
    (root / "inside").symlink_to(root / "train.py")
    (root / "relative").symlink_to("train.py")
    before = {name: (root / name).read_text() for name in files(root)}
    copy = tmp_path / "copy"
    duplicate(root, copy, 3)
    assert (copy / ".venv" / "pyvenv.cfg").is_file(), "the environment of a clone is there"
    script = "echo x > inside; echo x > relative; rm -rf .venv ./* .dockerignore"
    subprocess.run(["bash", "-c", script], cwd=copy, check=True)
    assert files(copy) == set()
    assert {name: (root / name).read_text() for name in files(root)} == before


def test_pipes_and_vanished_links_are_no_obstacle(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "gone").symlink_to("/no/where")
    copy = tmp_path / "copy"
    duplicate(root, copy, 3)
    assert (copy / "gone").is_symlink()
    assert not (copy / "pipe").exists()


def test_no_room(root: Path, tmp_path: Path) -> None:
    with (root / "film").open("wb") as stream:
        stream.truncate(10**13)
    with pytest.raises(
        IscError, match=r"no room for 3 copies.*10000 GB, and .* are free: .*\.dockerignore.*--in-place"
    ):
        duplicate(root, tmp_path / "copy", 3)
    assert not (tmp_path / "copy").exists()


def test_too_many_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isc_runtime.submission.contents.image.MOST_FILES", 3)
    with pytest.raises(IscError, match=r"more than 3 files to copy: .*\.dockerignore.*--in-place"):
        duplicate(root, tmp_path / "copy", 3)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("cd ~/a-project && bash launch.sh", "cd /copy && bash launch.sh"),
        ("bash $HOME/a-project/launch.sh", "bash /copy/launch.sh"),
        ('bash "${HOME}/a-project/launch.sh"', 'bash "/copy/launch.sh"'),
        ("rm -rf ~/a-project", "rm -rf /copy"),
        ("ls x~/a-project ~/a-project-2 '$HOME/a-project' \"~/a-project\"", None),
    ],
)
def test_the_project_in_the_home_directory_is_the_copy_too(command: str, expected: str | None) -> None:
    assert localize(command, ["/root/a-project"], Path("/copy")).text == (expected or command)
