"""What an update of the template leaves for a person is found, and said so that it can be done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from isc_runtime.submission.contents.version_control import files_of_git
from isc_runtime.submission.project import check
from isc_runtime.submission.update import LARGE, MOVED, check_update
from isc_runtime.tests.submission.test_version_control import git
from isc_runtime.text_files import MOST_BYTES

RUNTIME = Path(__file__).resolve().parents[2]
CONFLICT = "\n".join(["one", "<" * 7 + " ours", "mine", "=" * 7, "theirs", ">" * 7 + " theirs", ""])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The runtime as it is, and nothing else."""
    shutil.copytree(RUNTIME, tmp_path / "isc_runtime", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    file = project / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def found(project: Path) -> list[str]:
    findings = list(check_update(project, files_of_git(project)))
    assert {finding.severity for finding in findings} <= {"error"}
    return [str(finding) for finding in findings]


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_the_new_names_are_there_and_the_old_ones_are_not(old: str, new: str) -> None:
    root = RUNTIME.parent
    assert (root / (new.replace(".", "/") + ".py")).is_file()
    assert not (root / old.replace(".", "/")).with_suffix(".py").exists()
    assert not (root / old.replace(".", "/")).exists(), "a package of the old name would be imported instead"
    assert new not in MOVED, "one step leads to the new name"


def test_a_project_as_it_is_has_nothing_left(project: Path) -> None:
    write(project, "train.py", "from isc_runtime import rng\nfrom isc_runtime.ranks.group import Group\n")
    assert found(project) == []


@pytest.mark.parametrize(
    ("code", "line", "module", "cure"),
    [
        (
            "from isc_runtime.checkpoint import Checkpointer\n",
            1,
            "isc_runtime.checkpoint",
            "Write: from isc_runtime.checkpointing.checkpointer import Checkpointer.",
        ),
        (
            "import os\n\nimport isc_runtime.distributed as d\n",
            3,
            "isc_runtime.distributed",
            "Write: import isc_runtime.ranks.group as d.",
        ),
        (
            "import isc_runtime.watch\n",
            1,
            "isc_runtime.watch",
            "Write: import isc_runtime.ranks.watch. And isc_runtime.ranks.watch wherever isc_runtime.",
        ),
        (
            "from isc_runtime import (\n    rng,\n    distributed,\n)\n",
            3,
            "isc_runtime.distributed",
            "Write: from isc_runtime.ranks import group as distributed.",
        ),
        (
            "from isc_runtime import watch as w\n",
            1,
            "isc_runtime.watch",
            "Write: from isc_runtime.ranks import watch as w.",
        ),
        (
            "from isc_runtime import watch\n",
            1,
            "isc_runtime.watch",
            "Write: from isc_runtime.ranks import watch.",
        ),
        (
            "def late():\n    from isc_runtime.distributed import Group as G, replicate\n",
            2,
            "isc_runtime.distributed",
            "Write: from isc_runtime.ranks.group import Group as G. Nothing is called replicate any more",
        ),
        (
            "from isc_runtime.distributed import replicate\n",
            1,
            "isc_runtime.distributed",
            "now. Nothing is called replicate any more",
        ),
        (
            "from isc_runtime.watch import HOST, RankError as E, Watch\n",
            1,
            "isc_runtime.watch",
            "Write: from isc_runtime.ranks.watch import HOST, Watch. "
            "Write: from isc_runtime.ranks.rank_error import RankError as E.",
        ),
        (
            "from isc_runtime.store import *\n",
            1,
            "isc_runtime.store",
            "Write: from isc_runtime.checkpointing.stores.store import *.",
        ),
        (
            "from tests.processes import Place\n",
            1,
            "tests.processes",
            "Write: from isc_runtime.tests.processes import Place.",
        ),
    ],
)
def test_an_import_of_what_has_moved(project: Path, code: str, line: int, module: str, cure: str) -> None:
    write(project, "tools/probe.py", code)
    (said,) = found(project)
    assert said.startswith(f"tools/probe.py:{line}: It imports {module}, which is {MOVED[module]} now. ")
    assert cure in said


def test_check_says_it_too(project: Path) -> None:
    write(project, "train.py", "from isc_runtime.local_store import LocalStore\n")
    assert any("isc_runtime.checkpointing.stores.local_store" in str(finding) for finding in check(project))


@pytest.mark.parametrize(
    "code",
    [
        "from .isc_runtime.checkpoint import Checkpointer\n",
        "from isc_runtime.checkpointing import store\n",
        "import isc_runtime\n",
        "import checkpoint\n",
        "# from isc_runtime.checkpoint import Checkpointer\n",
        "text = 'import isc_runtime.checkpoint'\n",
    ],
)
def test_what_only_looks_like_one(project: Path, code: str) -> None:
    write(project, "probe.py", code)
    assert found(project) == []


def test_a_module_of_the_projects_own_tests_stays_its_own(project: Path) -> None:
    write(project, "tests/processes.py", "")
    write(project, "tests/test_train.py", "from tests.processes import Place\n")
    assert found(project) == []


@pytest.mark.parametrize(
    "content",
    [
        b"if x\nimport isc_runtime.watch\n",
        b"import isc_runtime.watch\0\n",
        b"import isc_runtime.watch\n\xff\n",
        b"# coding: nonsense\nimport isc_runtime.watch\n",
        b"import isc_runtime.watch\n" + b"(" * 100_000,
        b"isc_runtime\nx = '\\d'\n",
    ],
    ids=["syntax", "NUL", "no UTF-8", "coding", "deep", "escape"],
)
def test_what_python_cannot_read_or_warns_of_is_no_traceback(
    project: Path, content: bytes, recwarn: pytest.WarningsRecorder
) -> None:
    (project / "broken.py").write_bytes(content)
    assert found(project) == []
    assert not recwarn


def test_a_broken_new_module_hides_no_import(project: Path) -> None:
    write(project, "isc_runtime/ranks/group.py", "if x\n")
    write(project, "probe.py", "from isc_runtime.distributed import Group\n")
    assert "Write: from isc_runtime.ranks.group import Group." in found(project)[0]


def test_what_is_not_the_projects_own_is_not_read(project: Path) -> None:
    shutil.copy(RUNTIME.parent / ".dockerignore", project)
    for folder in (".git", ".venv/lib", "data/code", "isc_runtime", "environment/lib"):
        write(project, f"{folder}/probe.py", "import isc_runtime.watch\n")
    write(project, "environment/pyvenv.cfg", "")
    write(project, "large.py", "import isc_runtime.watch\n" + "#" * MOST_BYTES)
    os.mkfifo(project / "waits.py")
    (project / "nowhere.py").symlink_to("missing")
    assert found(project) == []


ANYWHERE = [
    *("train.py", "tests/test_train.py", "isc_runtime/rng.py", "launch.sh", "Makefile", "README.md"),
    *(".github/workflows/ci.yml", ".devcontainer/devcontainer.json", "isc_runtime/tests/x.toml", "docs/a.md"),
]


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("has_git", [False, True], ids=["", "git"])
def test_a_conflict(tmp_path: Path, name: str, has_git: bool) -> None:
    write(tmp_path, name, CONFLICT)
    if has_git:
        git(tmp_path, "init", "-q")
    (said,) = found(tmp_path)
    assert said.startswith(f"{name}:2: Two changes of the same lines met here, and git left both. Keep what")


@pytest.mark.parametrize("name", ["tests/test_train.py", "tests/data/x.toml"])
def test_what_the_image_leaves_out_is_the_projects_all_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path, ".dockerignore", "tests\n")
    write(tmp_path, name, CONFLICT)
    git(tmp_path, "init", "-q")
    assert len(found(tmp_path)) == 1
    git(tmp_path, "add", "--all")
    (tmp_path / ".gitignore").write_text("tests\n")
    assert len(found(tmp_path)) == 1


def test_a_conflict_in_what_git_ignores_is_none_of_an_update(tmp_path: Path) -> None:
    write(tmp_path, "logs/a.txt", CONFLICT)
    write(tmp_path, ".gitignore", "logs/\n")
    git(tmp_path, "init", "-q")
    assert found(tmp_path) == []


NO_CONFLICTS = {
    "a document that shows one": ("docs/git.md", CONFLICT.replace("ours", "HEAD")),
    "a file of data that shows one": ("tests/data/merge.txt", CONFLICT.replace("ours", "HEAD")),
    "two of the three lines": ("notes/a.txt", CONFLICT.replace(">" * 7, ">" * 8)),
    "in another order": ("notes/a.txt", "\n".join(reversed(CONFLICT.splitlines()))),
    "no text": ("notes/a.bin", "\0" + CONFLICT),
    "large": ("notes/a.txt", CONFLICT + "x" * LARGE),
    "lines without end": ("notes/a.txt", ("<" * 7 + " x\n") * 50_000),
}


@pytest.mark.parametrize(("name", "text"), NO_CONFLICTS.values(), ids=NO_CONFLICTS)
def test_what_is_no_conflict(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)
    git(tmp_path, "init", "-q")
    assert found(tmp_path) == []


def test_there_is_a_limit_to_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isc_runtime.submission.update.MOST_READ", 200_000)
    for number in range(60):
        write(tmp_path, f"labels/{number}.txt", "1\n")
    write(tmp_path, "labels/61.txt", CONFLICT)
    write(tmp_path, "notes/small.txt", CONFLICT)
    assert [said.partition(":")[0] for said in found(tmp_path)] == ["notes/small.txt"], "data come last"


def test_files_that_somebody_has_deleted_are_no_obstacle(tmp_path: Path) -> None:
    for name in ("a.txt", "b.py", "c.rej"):
        write(tmp_path, name, CONFLICT)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "--all")
    for name in ("a.txt", "b.py", "c.rej"):
        (tmp_path / name).unlink()
    assert found(tmp_path) == []


def test_a_conflict_is_said_once(project: Path) -> None:
    write(project, "train.py", CONFLICT)
    assert len([finding for finding in check(project) if finding.where.startswith("train.py")]) == 1


def test_a_heading_is_no_conflict(project: Path) -> None:
    write(project, "notes.md", "Title\n=======\n\n>>>>>>> quoted\n")
    assert found(project) == []


def test_changes_that_could_not_be_made(project: Path) -> None:
    write(project, "isc_runtime/ranks/group.py.rej", "@@ -1 +1 @@\n")
    assert found(project) == [
        "isc_runtime/ranks/group.py.rej: An update could not make the changes that are in this file. "
        "Change isc_runtime/ranks/group.py by hand as it says, then delete it."
    ]


def test_an_old_module_that_an_update_left(project: Path) -> None:
    write(project, "isc_runtime/checkpoint.py", "from isc_runtime.store import Store\n")
    new = "isc_runtime/checkpointing/checkpointer.py"
    assert found(project) == [
        f"isc_runtime/checkpoint.py: It is {new} now, and an update left the old file. If it holds a change "
        f"of yours, make that in {new}; then: git rm -f isc_runtime/checkpoint.py"
    ]
