"""Whether everything is committed, as git says; where git has nothing to say nobody is bothered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from isc_runtime.submission.contents.version_control import check_committed, files_of_git

IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *IDENTITY, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("x = 1\n")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_what_is_committed_is_fine(repository: Path) -> None:
    assert list(check_committed(repository)) == []


def test_changed_and_new_files_are_named(repository: Path) -> None:
    (repository / "train.py").write_text("x = 2\n")
    for name in ("a b.py", "é.py", "more.py"):
        (repository / name).touch()
    (finding,) = check_committed(repository)
    assert finding.severity == "warning"
    assert finding.what == "Not committed: train.py, a b.py, more.py and 1 more"
    assert "git commit" in finding.hint


def test_other_parts_of_a_larger_repository_do_not_count(repository: Path) -> None:
    (repository / "other.py").touch()
    part = repository / "part"
    part.mkdir()
    assert list(check_committed(part)) == []


def test_below_the_hook_of_another_repository_it_is_the_projects_own_that_is_asked(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/index.lock")
    assert list(check_committed(repository)) == []
    assert files_of_git(repository).tracked == {"train.py"}


def test_no_repository_and_no_git_are_no_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert list(check_committed(tmp_path)) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(check_committed(tmp_path)) == []
