"""A secret that git has or would take, or that the image would take, comes before all other advice."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from isc_runtime.submission.contents import credentials, leaks
from isc_runtime.submission.contents.dockerfile import DockerIgnore
from isc_runtime.submission.contents.image import image_content
from isc_runtime.submission.contents.leaks import check_leaks
from isc_runtime.submission.contents.version_control import files_of_git
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.project import run_check
from isc_runtime.tests.submission.planted import TOKENS
from isc_runtime.tests.submission.test_version_control import git

PROJECT = Path(__file__).resolve().parents[3]
TOKEN = TOKENS["a Slack token"]
BY_NAME = [".aws/credentials", ".netrc", "id_ed25519", "server.pem", ".npmrc", ".envrc", "prod.env"]
FROM_GIT = ("Dockerfile", ".dockerignore", ".gitignore")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with this project's rules for git and docker, and nothing else."""
    for name in FROM_GIT:
        shutil.copy(PROJECT / name, tmp_path / name)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def write(root: Path, name: str, text: str = "x") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def found(root: Path) -> list[Finding]:
    return check_leaks(root, image_content(root), files_of_git(root))


def without_rules(root: Path) -> None:
    for name in (".gitignore", ".dockerignore"):
        (root / name).write_text("")


@pytest.mark.parametrize("name", BY_NAME)
def test_our_rules_keep_it_from_git_and_image(root: Path, name: str) -> None:
    write(root, name)
    assert found(root) == []


@pytest.mark.parametrize("name", BY_NAME)
def test_without_rules_it_is_an_error(root: Path, name: str) -> None:
    without_rules(root)
    write(root, name)
    (finding,) = found(root)
    assert (finding.severity, finding.where) == ("error", name)
    what = "It looks like a secret, and git add --all would take it, and it would be copied into the image"
    assert finding.what == what
    assert finding.hint == "Name it in .gitignore and .dockerignore, or move it out of the project."


def test_what_git_has_is_to_be_taken_out(root: Path) -> None:
    write(root, "a b.key")
    git(root, "add", "--force", "a b.key")
    (finding,) = found(root)
    assert finding.what == "It looks like a secret, and git has it"
    assert finding.hint == (
        "Run: git rm --cached 'a b.key', and get a new one if it was ever pushed. "
        "Name it in .gitignore, or move it out of the project."
    )


def test_a_token_is_named_with_its_line_and_not_shown(root: Path) -> None:
    write(root, "notes.txt", f"one\ntwo {TOKEN}\n")
    (finding,) = found(root)
    assert finding.where == "notes.txt:2"
    assert finding.what.startswith(
        "It holds what looks like a Slack token, and git add --all would take it, and"
    )
    assert "Take it out of the file" in finding.hint
    assert "pragma: allowlist secret" in finding.hint
    assert TOKEN not in str(finding)


def test_what_only_the_image_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    write(tmp_path, "Dockerfile", "FROM scratch\nCOPY . .\n")
    write(tmp_path, ".env")
    (finding,) = found(tmp_path)
    assert finding.what == "It looks like a secret, and it would be copied into the image"
    assert finding.hint == "Name it in .dockerignore, or move it out of the project."


def test_a_secret_that_was_deleted_is_still_in_git(root: Path) -> None:
    write(root, ".npmrc")
    git(root, "add", "--force", ".npmrc")
    (root / ".npmrc").unlink()
    assert [finding.where for finding in found(root)] == [".npmrc"]


def test_a_certificate_may_be_public(root: Path) -> None:
    without_rules(root)
    write(root, "ca.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    assert found(root) == []


def test_there_is_a_limit_to_reading_and_small_files_come_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, "large.txt", "." * 9_000 + f" {TOKEN}")
    write(root, "small.txt", TOKEN)
    assert [finding.where for finding in found(root)] == ["large.txt:1", "small.txt:1"]
    monkeypatch.setattr(leaks, "MOST_READ", 9_000)
    secret, limit = found(root)
    assert secret.where == "small.txt:1"
    assert (limit.severity, limit.where) == ("warning", ".gitignore")
    assert "not all of it was searched for secrets" in limit.what


def test_nothing_is_advised_before_the_secret_is_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, "new.py", "x = 1\n")
    assert run_check(root, as_json=False) == 1
    assert "git add --all && git commit" in capsys.readouterr().out
    write(root, "notes.txt", TOKEN)
    assert run_check(root, as_json=False) == 1
    said = capsys.readouterr().out
    assert said.startswith("ERROR: notes.txt:1: It holds what looks like a Slack token")
    assert "git add --all && git commit" not in said
    assert "but not before the secrets are out" in said


def example_of(pattern: str) -> str:
    return pattern.replace("*", "x")


def ignored_by_git(root: Path, paths: list[str]) -> set[str]:
    said = subprocess.run(
        ["git", "check-ignore", "--stdin", "--no-index"],
        cwd=root,
        input="\n".join(paths),
        capture_output=True,
        text=True,
        check=False,
    )
    return set(said.stdout.splitlines())


def test_git_ignores_what_docker_ignores(root: Path) -> None:
    rules = [
        line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] not in "#!"
    ]
    paths = []
    for rule in rules:
        name = example_of(rule.removeprefix("**/").strip("/"))
        folder = "deep/er/" if rule.startswith("**/") else ""
        paths += [f"{folder}{name}", f"{name}/file"] if name != ".git" else []
    assert len(paths) > 100
    left = {*paths} - ignored_by_git(root, paths)
    # A rule for a folder does not hold for a file of its name.
    folders = {path for path in left if ignored_by_git(root, [f"{path}/file"])}
    assert left - folders == set()


def test_both_ignore_all_that_has_the_name_of_a_secret(root: Path) -> None:
    paths = [f"{folder}{example_of(name)}" for name in credentials.NAMES for folder in ("", "deep/er/")]
    assert {*paths} - ignored_by_git(root, paths) == set()
    docker = DockerIgnore(root)
    assert [path for path in paths if not docker.ignores(path)] == []


def test_examples_belong_into_git(root: Path) -> None:
    paths = [".env.example", ".env.sample", "deep/.env.template"]
    assert ignored_by_git(root, paths) == set()


def test_this_project_has_no_secrets() -> None:
    """Least of all in these tests, which plant them."""
    assert found(PROJECT) == []
