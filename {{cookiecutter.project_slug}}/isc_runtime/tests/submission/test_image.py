"""What would get into the image and must not, what would be missing, and how much it would be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isc_runtime.submission.contents.dockerfile import copied_files, place_in_image
from isc_runtime.submission.contents.image import check_image, image_content
from isc_runtime.submission.finding import Finding
from isc_runtime.tests.processes import PROJECT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with this project's Dockerfile and .dockerignore, and what they need."""
    for name in ("Dockerfile", ".dockerignore", "requirements.lock", "requirements-cycling-utils.txt"):
        shutil.copy(PROJECT / name, tmp_path / name)
    write(tmp_path, "train.py", "x = 1\n")
    return tmp_path


def write(root: Path, name: str, content: str | int = "") -> None:
    """Writes a file, or one of so many bytes that takes no room."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        file.write_text(content)
    else:
        with file.open("wb") as stream:
            stream.truncate(content)


def found(root: Path) -> list[Finding]:
    return list(check_image(root, image_content(root)))


def test_code_and_lock_get_into_it_and_no_caches(root: Path) -> None:
    write(root, "isc_runtime/deep/store.py", "x = 1\n")
    write(root, "isc_runtime/deep/__pycache__/store.pyc")
    assert found(root) == []
    content = image_content(root)
    assert {"train.py", "isc_runtime/deep/store.py", "requirements.lock"} < content.files.keys()
    assert not [name for name in content.files if "__pycache__" in name]
    assert content.size == sum((root / name).stat().st_size for name in content.files)


@pytest.mark.parametrize(
    ("name", "size", "where"),
    [
        ("pictures/train.npz", 2 * 10**6, "pictures"),
        ("weights.safetensors", 10**6, "weights.safetensors"),
        ("notes/film", 60 * 10**6, "notes"),
        (".git/objects/pack", 5, ".git"),
    ],
)
def test_data_are_told_by_size(root: Path, name: str, size: int, where: str) -> None:
    write(root, ".dockerignore")
    write(root, name, size)
    (finding,) = found(root)
    assert (finding.severity, finding.where) == ("warning", where)
    assert "would be copied into the image" in finding.what
    write(root, ".dockerignore", f"{where}\n")
    assert found(root) == []


def test_more_than_a_container_takes_is_an_error(root: Path) -> None:
    write(root, "big", 26 * 10**9)
    assert ("error", "26 GB would be copied into the image, and a container has room for 25 GB in all") in [
        (finding.severity, finding.what) for finding in found(root)
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("FROM x\nWORKDIR /root/it\nCOPY\t. .\n", "/root/it"),
        ("FROM x\nWORKDIR /root\nWORKDIR it/\ncopy --link . ./\n", "/root/it"),
        ("ARG A=1 BASE=x\nFROM $BASE\nENV SRC=. TO=/root/it\nWORKDIR ${TO}\nCOPY $SRC .\n", "/root/it"),
        ("FROM x\nENV TO /root/it\nCOPY . $TO\n", "/root/it"),
        ("FROM x\nWORKDIR /root/it\nCOPY *.py *.sh ./\nCOPY tests /x\n", "/root/it"),
        ("FROM x\nCOPY launch.sh /root/it/launch.sh\n", "/root/it"),
        ("FROM x\nWORKDIR /root/it\nRUN cat <<'EOF' > /x\nWORKDIR /no\nEOF\nCOPY . .\n", "/root/it"),
        ("FROM x\nCOPY . $TO\n", ""),
        ("FROM x\nCOPY . .\n", ""),
        ("FROM x AS made\nWORKDIR /made\nCOPY . .\nFROM y\nCOPY --from=made /made /root/it\n", ""),
        ("FROM x\nWORKDIR /root/it\nCOPY 'open . .\n", None),
    ],
)
def test_where_the_image_has_the_project(root: Path, text: str, place: str | None) -> None:
    (root / "launch.sh").touch()
    (root / "Dockerfile").write_text(text)
    assert place_in_image(root) == (place or "")
    assert bool(image_content(root).files) == (place is not None)


def test_there_is_a_limit_to_looking(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isc_runtime.submission.contents.image.MOST_FILES", 3)
    (finding,) = found(root)
    assert "More than 3 files" in finding.what


def test_what_is_copied_must_not_be_kept_out(root: Path) -> None:
    write(root, ".dockerignore", "*.lock\n")
    (finding,) = found(root)
    assert finding.where.startswith("Dockerfile:")
    assert ".dockerignore keeps requirements.lock out" in finding.what


def test_only_what_the_dockerfile_copies_counts(root: Path) -> None:
    write(root, "Dockerfile", "FROM scratch\nCOPY src/*.py conf* /x/\n")
    for name in ("src/a.py", "src/a.txt", "src/deep/b.py", "config/x/y", "secret/.env"):
        write(root, name)
    assert sorted(path for path, _ in copied_files(root)) == ["config/x/y", "src/a.py"]


@pytest.mark.parametrize("rule", ["[z-a]", "!data[", "notes\\"])
def test_what_is_no_pattern_is_named(root: Path, rule: str) -> None:
    write(root, ".dockerignore", f"\ufeff# caches\n*.pyc\n{rule}\n")
    (finding,) = found(root)
    assert finding.where == ".dockerignore:3"
    assert finding.what == f"{rule} is no pattern that docker build can read"


@pytest.mark.parametrize("source", ["[z-a]", "data["])
def test_a_source_that_is_no_pattern_is_not_there(root: Path, source: str) -> None:
    write(root, "Dockerfile", f"FROM scratch\nCOPY {source} train.py ./\n")
    (finding,) = found(root)
    assert finding.where == "Dockerfile:2"
    assert finding.what == f"There is no {source} to copy"


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("a", "b D/a D/E/a D/E/x.key"),
        ("/D", "a b"),
        ("./D/", "a b"),
        ("D/*", "a b"),
        ("*/a", "a b D/E/a D/E/x.key"),
        ("**/a", "b D/E/x.key"),
        ("D/**/a", "a b D/E/x.key"),
        ("**/*.key", "a b D/a D/E/a"),
        ("**/x.???", "a b D/a D/E/a"),
        ("[ab]", "D/a D/E/a D/E/x.key"),
        ("[^a]", "a"),
        ("# a\n\na", "b D/a D/E/a D/E/x.key"),
        ("*\n!b", "b"),
        ("D\n!D/E/a", "a b D/E/a"),
        ("!D\nD", "a b"),
        (r"\a", "b D/a D/E/a D/E/x.key"),
    ],
)
def test_dockerignore(tmp_path: Path, rules: str, kept: str) -> None:
    write(tmp_path, "Dockerfile", "FROM scratch\nCOPY . .\n")
    write(tmp_path, ".dockerignore", f"{rules}\nDockerfile\n.dockerignore\n")
    for name in ("a", "b", "D/a", "D/E/a", "D/E/x.key"):
        write(tmp_path, name)
    assert sorted(path for path, _ in copied_files(tmp_path)) == sorted(kept.split())
