"""What the hooks do in a folder that was there before, where no link can be written, with nobody to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from baking import commit, create, git, run

COOKIECUTTER = [sys.executable, "-m", "cookiecutter", "--no-input"]
BINARY = bytes(range(256)) + b"\r\n\r\n"


def link_of(project: Path) -> dict[str, str]:
    """What the project says of the template."""
    link: dict[str, str] = json.loads((project / ".cruft.json").read_text())
    return link


@pytest.fixture
def theirs(template: Path, tmp_path: Path) -> Path:
    """A clone of the template with an origin that has its commits, and a branch that only a team has."""
    git("clone", "-q", str(template), "origin.git", cwd=tmp_path)
    git("switch", "-q", "--create", "team", cwd=tmp_path / "origin.git")
    commit(tmp_path / "origin.git", "{{cookiecutter.project_slug}}/TEAM", "x\n")
    git("switch", "-q", "main", cwd=tmp_path / "origin.git")
    git("clone", "-q", "origin.git", "isc-template", cwd=tmp_path)
    return tmp_path / "isc-template"


@pytest.mark.parametrize("options", [["-f"], ["-f", "-s"]])
def test_what_was_in_the_folder_before_stays_as_it_was(
    template: Path, tmp_path: Path, options: list[str]
) -> None:
    project = tmp_path / "isc-experiment"
    (project / "checkpoints").mkdir(parents=True)
    outside = tmp_path / "outside.bin"
    for file in (project / "big.bin", project / "mine.sh", project / "checkpoints" / "w.pth", outside):
        file.write_bytes(BINARY)
    (project / "linked").symlink_to(outside)
    (project / "README.md").write_bytes(b"# mine\r\n")
    create(template, tmp_path, *options)
    for name in ("big.bin", "mine.sh", "checkpoints/w.pth", "linked"):
        assert (project / name).read_bytes() == BINARY, name
    assert not (project / "mine.sh").stat().st_mode & 0o111
    assert (project / "linked").is_symlink()
    assert ((project / "README.md").read_bytes() == b"# mine\r\n") == ("-s" in options)
    assert (project / "launch.sh").stat().st_mode & 0o111, "what is the template's is as ever"


def test_what_cookiecutter_would_not_keep_is_named_before_anything_is_written(
    template: Path, tmp_path: Path
) -> None:
    """With -s it keeps what it renders, and overwrites what it copies: all Python."""
    project = tmp_path / "isc-experiment"
    (project / "isc_runtime").mkdir(parents=True)
    for name in ("model.py", "isc_runtime/errors.py", "README.md"):
        (project / name).write_text("# mine")
    result = run(*COOKIECUTTER, "-f", "-s", template, cwd=tmp_path)
    assert result.returncode == 1
    assert "-s would not keep isc_runtime/errors.py, model.py: " in result.stderr
    assert sorted(path.name for path in project.iterdir()) == ["README.md", "isc_runtime", "model.py"]
    assert (project / "model.py").read_text() == "# mine"


@pytest.mark.parametrize("name", ["README.md", "model.py", "isc_runtime"])
def test_nothing_is_written_through_a_link(template: Path, tmp_path: Path, name: str) -> None:
    project = tmp_path / "isc-experiment"
    project.mkdir()
    (tmp_path / "shared").mkdir()
    target = tmp_path / "shared" if name == "isc_runtime" else tmp_path / "shared" / "mine"
    (tmp_path / "shared" / "mine").write_text("mine")
    (project / name).symlink_to(target)
    result = run(*COOKIECUTTER, "-f", template, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{name}: cookiecutter would write through this link. Make")
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["mine"]
    assert (tmp_path / "shared" / "mine").read_text() == "mine"
    assert [path.name for path in project.iterdir()] == [name]


def test_git_is_left_alone_in_a_folder_that_was_there_before(template: Path, tmp_path: Path) -> None:
    """What lies there may be large, secret, or staged by somebody."""
    project = tmp_path / "isc-experiment"
    project.mkdir()
    (project / "data.bin").write_bytes(BINARY)
    said = run(*COOKIECUTTER, "-f", template, cwd=tmp_path).stdout
    assert not (project / ".git").exists()
    assert "git commit" not in said
    assert "make check" in said
    git("init", "-q", cwd=project)
    git("add", "data.bin", cwd=project)
    create(template, tmp_path, "-f")
    assert git("diff", "--cached", "--name-only", cwd=project) == "data.bin\n"
    git("fsck", "--strict", cwd=project)


def test_a_folder_that_does_not_pass_the_check_is_no_failure_of_the_template(
    template: Path, tmp_path: Path
) -> None:
    project = tmp_path / "isc-experiment"
    project.mkdir()
    (project / "experiment.isc").write_text("mine")
    create(template, tmp_path, "-f", "-s")
    assert (project / "experiment.isc").read_text() == "mine"
    assert (project / "train.py").is_file()


def test_a_link_that_was_to_be_kept_is_kept(clone: Path, tmp_path: Path) -> None:
    before = (create(clone, tmp_path) / ".cruft.json").read_text()
    commit(clone, "NEWS", "x")
    assert (create(clone, tmp_path, "-f", "-s") / ".cruft.json").read_text() == before
    assert (create(clone, tmp_path, "-f") / ".cruft.json").read_text() != before


def test_the_link_is_written_through_no_other(template: Path, tmp_path: Path) -> None:
    (tmp_path / "isc-experiment").mkdir()
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "isc-experiment" / ".cruft.json").symlink_to(tmp_path / "elsewhere")
    said = run(*COOKIECUTTER, "-f", template, cwd=tmp_path).stdout
    assert ".cruft.json is a symbolic link" in said
    assert (tmp_path / "elsewhere").read_text() == "x"


def test_updates_follow_the_branch_that_was_asked_for(theirs: Path, tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'origin.git'}"
    result = run(*COOKIECUTTER, address, "--checkout", "team", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    link = link_of(tmp_path / "isc-experiment")
    assert (link["template"], link["checkout"]) == (address, "team")
    assert (tmp_path / "isc-experiment" / "TEAM").is_file()

    git("tag", "v7.0", cwd=tmp_path / "origin.git")
    assert run(*COOKIECUTTER, address, "--checkout", "v7.0", "-f", cwd=tmp_path).returncode == 0
    assert link_of(tmp_path / "isc-experiment")["checkout"] == "v7.0", "as cruft create has it"


def test_updates_follow_the_branch_that_a_clone_is_on(theirs: Path, tmp_path: Path) -> None:
    assert link_of(create(theirs, tmp_path))["checkout"] is None
    asked = create(theirs, tmp_path, "-f", "--checkout", "origin/team")
    assert link_of(asked)["checkout"] is None, "cookiecutter has not checked it out"
    git("switch", "-q", "team", cwd=theirs)
    link = link_of(create(theirs, tmp_path, "-f"))
    assert (link["template"], link["checkout"]) == (str(tmp_path / "origin.git"), "team")
    git("switch", "-q", "--detach", cwd=theirs)
    assert link_of(create(theirs, tmp_path, "-f"))["checkout"] == "team"


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("ssh://git@example.org/isc-template.git", None),
        ("http://ada:secret@example.org:80/x", "http://example.org:80/x"),
        ("https://oauth2:tok/en@example.org/x", ""),
        ("https://ada:se@cret@example.org/x", ""),
    ],
)
def test_an_address_is_that_of_the_clone_without_a_password(
    theirs: Path, tmp_path: Path, origin: str, address: str | None
) -> None:
    git("remote", "set-url", "origin", origin, cwd=theirs)
    said = run(*COOKIECUTTER, theirs, cwd=tmp_path).stdout
    file = tmp_path / "isc-experiment" / ".cruft.json"
    assert file.exists() == (address != "")
    assert ("may be part of a password" in said) == (address == "")
    if address != "":
        assert link_of(file.parent)["template"] == (origin if address is None else address)


def test_a_relative_address_is_seen_from_everywhere(theirs: Path, tmp_path: Path) -> None:
    git("remote", "set-url", "origin", "../origin.git", cwd=theirs)
    assert link_of(create(theirs, tmp_path))["template"] == str(tmp_path / "origin.git")


@pytest.mark.parametrize("case", ["archive", "dirty", "owner"])
def test_without_a_link_it_says_why_and_how_to_make_one(clone: Path, tmp_path: Path, case: str) -> None:
    environment: dict[str, str] = {}
    source = clone
    if case == "archive":
        git("archive", "--format=zip", "--prefix=main/", "--output=../main.zip", "HEAD", cwd=clone)
        source, reason = tmp_path / "main.zip", "an archive or a copy does not say where it is from"
    elif case == "dirty":
        (clone / "README.md").write_text("changed")
        reason = "the template has changes that are not committed"
    else:
        environment |= {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_CONFIG_COUNT": "0"}  # .ci/run trusts all
        reason = "git does not read the template (fatal: detected dubious ownership"
    said = run(*COOKIECUTTER, source, cwd=tmp_path, **environment).stdout
    assert not (tmp_path / "isc-experiment" / ".cruft.json").exists()
    assert reason in said
    assert "uvx cruft link <address of the template>" in said


@pytest.mark.parametrize("case", ["full", "latin-1", "left", "closed"])
def test_a_good_project_stays_when_the_next_steps_cannot_be_printed(
    template: Path, tmp_path: Path, case: str
) -> None:
    place = tmp_path / "日本"
    place.mkdir()
    shell = {
        "full": '"$@" > /dev/full',
        "latin-1": 'PYTHONIOENCODING=latin-1 "$@"',
        "left": 'mkfifo pipe; : < pipe & exec 3> pipe; wait; "$@" >&3',
        "closed": '"$@" >&-',
    }[case]
    command = ["bash", "-c", shell, "sh", *COOKIECUTTER, "-o", str(place), str(template)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (place / "isc-experiment" / "train.py").is_file(), result.stderr
    assert b"Traceback" not in result.stderr
    assert result.returncode == 0
    assert (case == "latin-1") == (b"\\u65e5\\u672c" in result.stdout)
