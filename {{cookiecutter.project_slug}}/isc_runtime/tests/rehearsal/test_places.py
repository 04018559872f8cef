"""Each node of each cycle has a new copy of the project, and a new folder for temporary files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from isc_runtime.errors import IscError
from isc_runtime.rehearsal.cycle import COMPLETE, FAILED, Cycle, CycleRunner
from isc_runtime.rehearsal.duplicate import Copy, Places, remove, temporary_folders
from isc_runtime.rehearsal.node import Artifacts, Machine
from isc_runtime.rehearsal.plan import Plan

FILES = ("train.py", "deep/er/x.py", "launch.sh", "one/y.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "Dockerfile").write_text("FROM scratch\nCOPY . .\n")
    (root / "link").symlink_to(root / "train.py")
    (root / "folder").symlink_to("deep")
    return root


def content(folder: Path) -> dict[str, str]:
    """All that is in a folder, links as they are."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else "/"
        if path.is_dir()
        else path.read_text()
        if path.is_file()
        else "neither"
        for path in folder.rglob("*")
    }


CHANGES = (
    "echo state > new; mkdir -p new2/in/it; touch new2/in/it/x",
    "echo longer >> train.py",
    "touch -d @0 train.py",
    "printf TRAIN.PY > train.py; touch -r launch.sh train.py",  # of the same size and date as another one
    "rm -rf ./*",
    "rm -r deep; echo x > deep",
    "rm train.py; mkdir -p train.py/in; touch train.py/in/x",
    "ln -sfn one folder; ln -sf launch.sh link; ln -s /etc away",
    "chmod +x train.py",
    "mv train.py deep/moved.py; cp launch.sh train.py",
    "mkfifo pipe",
)


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_left_of_what_was_changed(root: Path, tmp_path: Path, change: str) -> None:
    places = Places(root, tmp_path)
    places.take_image(["a-project"], 2)
    before = content(root)
    first, second = (places.renewed(node) for node in (0, 1))
    copies = [content(place.project.parent) for place in (first, second)]
    subprocess.run(["bash", "-c", change], cwd=first.project, check=True)
    subprocess.run(["bash", "-c", "touch x .y"], cwd=first.temporary, check=True)
    (first.project.parent / "beside").write_text("state")
    assert [content(places.project(node).parent) for node in (0, 1)] != copies
    assert content(places.project(1).parent) == copies[1], "another node does not see it"
    assert places.renewed(0) == first
    assert [content(places.project(node).parent) for node in (0, 1)] == copies
    assert list(first.temporary.iterdir()) == []
    assert not os.access(first.project / "train.py", os.X_OK)
    assert content(root) == before


def test_what_a_cycle_has_left_alone_is_not_copied_again(root: Path, tmp_path: Path) -> None:
    copy = Copy(root, tmp_path / "copy")
    copy.renew()
    before = {name: (copy.path / name).stat().st_ino for name in FILES}
    bytecode = copy.path / "deep" / "__pycache__" / "x.cpython-311.pyc"
    elsewhere = copy.path / "new" / "__pycache__" / "x.cpython-311.pyc"
    for file in (bytecode, elsewhere):
        file.parent.mkdir(parents=True)
        file.write_text("")
    (bytecode.parent / "state").write_text("")
    (copy.path / "launch.sh").unlink()
    copy.renew()
    after = {name: (copy.path / name).stat().st_ino for name in FILES}
    assert {name for name in FILES if after[name] == before[name]} >= {"train.py", "deep/er/x.py", "one/y.py"}
    assert bytecode.exists()
    assert not (bytecode.parent / "state").exists()
    assert not elsewhere.parent.parent.exists()


def test_what_a_cycle_leaves_in_a_copy_is_named(root: Path, tmp_path: Path) -> None:
    places = Places(root, tmp_path)
    places.take_image([], 2)
    assert places.left() == []
    copies = [places.renewed(node).project for node in (0, 1)]
    assert places.left() == []
    (copies[0] / "best.pt").write_text("")
    (copies[1] / "one" / "y.py").write_text("longer than it was")
    (copies[1] / "launch.sh").chmod(0o755)
    for cache in (".cache/x", "deep/__pycache__/x.pyc"):
        (copies[1] / cache).parent.mkdir()
        (copies[1] / cache).write_text("")
    (copies[1] / "train.py").unlink()
    assert places.left() == ["best.pt", "one/y.py"]
    for node in (0, 1):
        places.renewed(node)
    assert places.left() == []


def test_what_is_read_only_is_no_obstacle(root: Path, tmp_path: Path) -> None:
    places = Places(root, tmp_path)
    places.take_image([], 1)
    for _ in range(2):
        place = places.renewed(0)
        for folder in (place.temporary, place.project):
            (folder / "data" / "deep").mkdir(parents=True)
            (folder / "data" / "deep" / "x").write_text("")
            (folder / "data" / "deep").chmod(0o500)
            (folder / "data").chmod(0o500)
    remove(tmp_path / "0")
    assert not (tmp_path / "0").exists()


def test_each_name_of_the_project_leads_to_the_copy(root: Path, tmp_path: Path) -> None:
    places = Places(root, tmp_path)
    places.take_image(["a-project", "project"], 1)
    place = places.renewed(0)
    assert place.project.name == "project"
    assert (place.project.parent / "a-project").resolve() == place.project


def test_there_must_be_room_for_the_copies_of_all_nodes(root: Path, tmp_path: Path) -> None:
    with (root / "film").open("wb") as stream:
        stream.truncate(10**13)
    with pytest.raises(IscError, match=r"no room for 4 copies \(one a node, and one to make them of\)"):
        Places(root, tmp_path).take_image([], 3)


def test_what_is_temporary_has_a_short_path(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets are made in it."""
    long = tmp_path / ("long" * 20)
    long.mkdir()
    for where, is_long in ((long, True), (Path("/tmp"), False)):
        monkeypatch.setattr(tempfile, "tempdir", str(where))
        with temporary_folders() as (folder, short):
            assert folder.parent == where
            assert (folder != short) is is_long
            place = Places(root, folder, short=short).renewed(0)
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(place.temporary / "pymp-12345678.listener-12345678"))
        assert not folder.exists()
        assert not short.exists()


def run_cycles(root: Path, tmp_path: Path, command: str, is_copied: bool = True) -> list[Cycle]:
    """Two cycles of two nodes."""
    folder = tmp_path / "out"
    places = Places(root, tmp_path)
    if is_copied:
        places.take_image([], 2)
    machine = Machine.here([], tmp_path)
    runner = CycleRunner(
        machine, places, lambda project: f"cd {project} && {command}", folder, folder / "t", Plan(), print
    )
    artifacts = Artifacts(folder / "artifact", folder / "logs")
    artifacts.make()
    return [runner.run(f"cycle {number}", 2, 1, artifacts, lambda cycle: None) for number in (1, 2)]


LEAVES = "test ! -e state && test ! -e $TMPDIR/state && touch state $TMPDIR/state"


def test_no_cycle_and_no_node_finds_what_another_one_wrote(root: Path, tmp_path: Path) -> None:
    cycles = run_cycles(root, tmp_path, f"sleep 0.1; {LEAVES}")
    assert [cycle.end for cycle in cycles] == [COMPLETE] * 2, [cycle.reason() for cycle in cycles]


def test_in_place_they_do(root: Path, tmp_path: Path) -> None:
    cycles = run_cycles(root, tmp_path, f"(test $NODE_RANK = 1 || ({LEAVES}))", is_copied=False)
    assert [cycle.end for cycle in cycles] == [COMPLETE, FAILED]


OPENS = """
import os, pathlib, sys
file, way, node = pathlib.Path(sys.argv[1]), sys.argv[2], os.environ["NODE_RANK"]
if file.exists():
    file.read_text()
if way == "replace":
    new = file.with_suffix(".new")
    new.write_text(node)
    new.replace(file)
elif way == "write" or (way == "node 0" and node == "0"):
    file.write_text(node)
"""


@pytest.mark.parametrize("way", ["write", "replace", "none"])
def test_what_is_left_outside_and_read_is_told(root: Path, tmp_path: Path, way: str) -> None:
    from isc_runtime.rehearsal.left_behind import judge_left_behind
    from isc_runtime.rehearsal.trace import STARTUP

    (root / "train.py").write_text(OPENS)
    file = tmp_path / "home" / "state"
    file.parent.mkdir()
    rank = f"RANK=$NODE_RANK LOCAL_RANK=0 PYTHONPATH={STARTUP} {sys.executable} train.py"
    cycles = run_cycles(root, tmp_path, f"(test $NODE_RANK = 1 || {rank} {file} {way})")
    assert [cycle.end for cycle in cycles] == [COMPLETE] * 2, [cycle.reason() for cycle in cycles]
    findings = list(judge_left_behind(cycles))
    assert [finding.severity for finding in findings] == ["warning"] * (way != "none")
    for finding in findings:
        assert f"In cycle 2 it reads {file}, which cycle 1 wrote" in finding.what
