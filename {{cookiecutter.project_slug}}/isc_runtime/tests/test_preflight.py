"""Each way in which a place can be not ready gives its message and its exit code, at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime import preflight
from isc_runtime.__main__ import _parser
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.group import Group
from isc_runtime.tests.processes import PROJECT, UNSET, Place, copy_of_the_runtime

Break = Callable[[Place], None]


def without(*names: str) -> Break:
    return lambda place: place.variables.update(dict.fromkeys(names, UNSET))


def set_to(**variables: str) -> Break:
    return lambda place: place.variables.update(
        {name: value.replace("HERE", str(place.path)) for name, value in variables.items()}
    )


def file_in_place_of(name: str) -> Break:
    def replace(place: Place) -> None:
        (place.path / name).rmdir()
        (place.path / name).write_text("")

    return replace


def remove(name: str) -> Break:
    return lambda place: (place.path / name).rmdir()


def dangling(name: str) -> Break:
    def replace(place: Place) -> None:
        (place.path / name).rmdir()
        (place.path / name).symlink_to("nowhere")

    return replace


def hide(package: str) -> Break:
    """A finder that does not know the package, wherever the real one is installed."""

    def replace(place: Place) -> None:
        (place.path / "hidden").mkdir()
        (place.path / "hidden" / "sitecustomize.py").write_text(
            "import importlib.machinery, sys\n"
            "find = importlib.machinery.PathFinder.find_spec\n"
            "class Hide:\n"
            "    @staticmethod\n"
            "    def find_spec(name, path=None, target=None):\n"
            f"        return None if name == {package!r} else find(name, path, target)\n"
            "sys.meta_path = [Hide if f is importlib.machinery.PathFinder else f for f in sys.meta_path]\n"
        )
        inherited = place.environment()["PYTHONPATH"]
        place.variables["PYTHONPATH"] = os.pathsep.join([str(place.path / "hidden"), inherited])

    return replace


CASES = {
    "no directory named": (
        without("CHECKPOINT_ARTIFACT_PATH"),
        ["No environment variable says where", "CHECKPOINT_ARTIFACT_PATH or OUTPUT_PATH", "unset LOSSY"],
    ),
    "two directories named": (
        set_to(OUTPUT_PATH="HERE"),
        ["name different", "OUTPUT_PATH=", "Unset one of them"],
    ),
    "empty variable": (set_to(CHECKPOINT_ARTIFACT_PATH=""), ["set but empty", "CHECKPOINT_ARTIFACT_PATH"]),
    "empty mode": (set_to(LOSSY_ARTIFACT_PATH=""), ["set but empty", "LOSSY_ARTIFACT_PATH"]),
    "no directory": (remove("checkpoints"), ["does not exist", "/checkpoints", "make it"]),
    "a file": (file_in_place_of("checkpoints"), ["is not a directory", "/checkpoints"]),
    "a link to nowhere": (dangling("checkpoints"), ["is not a directory", "/checkpoints"]),
    "no log directory": (remove("logs"), ["LOSSY_ARTIFACT_PATH does not exist", "/logs"]),
    "not the mode of the ISC": (
        without("LOSSY_ARTIFACT_PATH"),
        ["CHECKPOINT_ARTIFACT_PATH is set, and LOSSY_ARTIFACT_PATH is not", "throws away", "say --local"],
    ),
    "OUTPUT_PATH alone": (
        lambda place: place.variables.update(
            LOSSY_ARTIFACT_PATH=UNSET, CHECKPOINT_ARTIFACT_PATH=UNSET, OUTPUT_PATH=str(place.checkpoints)
        ),
        ["OUTPUT_PATH is set, and LOSSY_ARTIFACT_PATH is not", "say --local"],
    ),
    "no cycling_utils": (
        hide("cycling_utils"),
        ["cycling_utils is not installed", "-m pip install --no-deps -r requirements-cycling-utils.txt"],
    ),
    "no torch": (
        hide("torch"),
        ["torch is not installed", "-m pip install --require-hashes -r requirements.lock"],
    ),
    "a rank that is no number": (set_to(LOCAL_RANK="x", RANK="0"), ["not a number", "torchrun"]),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unfit_place_is_refused(tmp_path: Path, case: str) -> None:
    damage, expected = CASES[case]
    place = Place(tmp_path, isc_mode=True)
    damage(place)
    before = sorted(tmp_path.rglob("*"))
    ended = place.run()
    assert ended.code == ExitCode.UNFIT
    errors = [line for line in ended.output.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    for part in expected:
        assert part in errors[0]
    assert "Traceback" not in ended.output
    assert sorted(tmp_path.rglob("*")) == before


def test_on_a_laptop_a_package_that_is_missing_comes_with_make_setup(tmp_path: Path) -> None:
    place = Place(tmp_path)
    hide("torch")(place)
    ended = place.run()
    assert ended.code == ExitCode.UNFIT
    assert "ERROR: The package torch is not installed: " in ended.output
    assert "or fill this one: make setup" in ended.output


@pytest.mark.parametrize("command", ["check", "preflight", "setup", "torchrun"])
def test_an_older_python_is_told_so_before_anything_else(tmp_path: Path, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-m", "isc_runtime", command]
    ended = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == ExitCode.UNFIT
    assert ended.stderr.startswith("ERROR: This project needs Python 3.10 or newer, and this is 3.9: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("call", ["unlink", "symlink", "rename", "fsync", "open", "scandir"])
@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES", "EIO", "EDQUOT"])
def test_what_a_directory_refuses_is_said_with_its_cure(
    tmp_path: Path, call: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the probe may be the one that fails; root is refused nothing, so the call is replaced."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOSSY_ARTIFACT_PATH", "CHECKPOINT_ARTIFACT_PATH", "OUTPUT_PATH"):
        monkeypatch.delenv(name, raising=False)
    number = getattr(errno, code)

    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    target = {"rename": "pathlib.Path.replace", "unlink": "pathlib.Path.unlink"}.get(call, f"os.{call}")
    if call in ("open", "symlink"):
        target = {"open": "pathlib.Path.open", "symlink": "pathlib.Path.symlink_to"}[call]
    with monkeypatch.context() as patch:
        patch.setattr(target, refuse)
        with pytest.raises(IscError) as raised:
            preflight.validate_and_setup_checkpoint_directory(False, defer_atomic_directory=True)
    assert os.strerror(number) in raised.value.what
    assert raised.value.where == str(tmp_path / "checkpoints")
    assert raised.value.hint == preflight.CURES[number]


def test_a_disk_that_fills_up_between_two_looks_is_said_with_its_cure(
    tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "write_durably", full)
    with pytest.raises(IscError, match=r"not writable any more \(No space.*The disk is full") as raised:
        preflight.open_store(group.environment, group)
    assert raised.value.where == str(tmp_path / "checkpoints")


def test_stage_1_does_not_import_torch(tmp_path: Path) -> None:
    place = Place(tmp_path, isc_mode=True)
    (tmp_path / "checkpoints").rmdir()
    command = [sys.executable, "-X", "importtime", str(place.script)]
    ended = subprocess.run(
        command, cwd=tmp_path, env=place.environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == ExitCode.UNFIT
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "isc_runtime.preflight" in imported
    assert not imported & {"torch", "numpy", "rich", "xxhash"}


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """`python -m isc_runtime` of a project whose data.py is not the user's."""
    return copy_of_the_runtime(tmp_path / "project") / "isc_runtime"


@pytest.mark.parametrize("isc_mode", [False, True])
def test_a_fit_place_passes_and_says_what_was_checked(tmp_path: Path, command: Path, isc_mode: bool) -> None:
    place = Place(tmp_path, isc_mode, script=command)
    ended = place.run("preflight")
    assert ended.code == 0, ended.output
    assert "🔧 EARLY CHECKPOINT DIRECTORY VALIDATION" in ended.output
    assert f"ISC Mode: {isc_mode}" in ended.output
    assert f"✅ Directory is writable: {place.checkpoints}" in ended.output
    assert list(place.checkpoints.iterdir()) == []


@pytest.mark.parametrize("lossy", [UNSET, "/nowhere"])
def test_a_laptop_with_variables_of_the_isc_says_so(tmp_path: Path, command: Path, lossy: str) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    variables = {"CHECKPOINT_ARTIFACT_PATH": str(artifact), "LOSSY_ARTIFACT_PATH": lossy}
    place = Place(tmp_path, variables=variables, script=command)
    assert place.run("preflight").code == ExitCode.UNFIT
    ended = place.run("preflight", "--local")
    assert ended.code == 0, ended.output
    assert f"Directory is writable: {place.checkpoints}" in ended.output
    trained = Place(tmp_path, variables=variables).train("--epochs", "1", "--local")
    assert trained.code == 0, trained.output
    assert (place.checkpoints / "resume.pth").exists()
    assert not list(artifact.iterdir())


@pytest.mark.parametrize("node", ["0", "1"])
def test_only_node_0_calls_itself_master(tmp_path: Path, command: Path, node: str) -> None:
    """launch.sh asks on each node, before there are ranks."""
    place = Place(tmp_path, isc_mode=True, variables={"NODE_RANK": node}, script=command)
    ended = place.run("preflight")
    assert ended.code == 0, ended.output
    assert f"Is Master Process: {node == '0'}" in ended.output


def test_what_launch_sh_has_said_is_checked_again_and_not_said_again(tmp_path: Path, command: Path) -> None:
    place = Place(tmp_path, isc_mode=True, variables={preflight.SAID: "said"}, script=command)
    ended = place.run("preflight")
    assert (ended.code, ended.output) == (0, "")
    place.logs.rmdir()
    assert place.run("preflight").code == ExitCode.UNFIT


def test_missing_data_are_refused(tmp_path: Path, command: Path) -> None:
    ended = Place(tmp_path, script=command).run(
        "preflight", "--dataset-id", "a", "--data-root", str(tmp_path)
    )
    assert ended.code == ExitCode.DATA
    assert (
        ended.output.splitlines()[-1] == f"ERROR: There is no such dataset: {tmp_path / 'a'}. Choose another."
    )


def test_a_log_without_utf_8_is_no_reason_to_fail(tmp_path: Path, command: Path) -> None:
    place = Place(tmp_path, variables={"PYTHONIOENCODING": "ascii"}, script=command)
    ended = place.run("preflight")
    assert ended.code == 0, ended.output
    assert "? Directory is writable" in ended.output


@pytest.mark.parametrize("own", ["--dataset", "--data", "--data-r"])
def test_an_option_of_the_user_s_is_not_taken_for_one_of_ours(own: str) -> None:
    arguments, others = _parser().parse_known_args(["preflight", own, "mine"])
    assert arguments.dataset_id is None
    assert arguments.data_root == Path("/data")
    assert others == [own, "mine"]
