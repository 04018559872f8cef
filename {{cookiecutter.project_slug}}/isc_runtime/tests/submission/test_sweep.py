"""A sweep is launch files: one a point, each with a name of its own, each checked."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from isc_runtime.__main__ import main
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.submission import sweep as module
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.sweep import points, sweep
from isc_runtime.tests.processes import PROJECT
from isc_runtime.toml import load_toml

TEXT = """# A comment that stays.
isc_project_id = "prj-quiet-river-261124"
experiment_name = "Otters"
gpus = 8
command = "bash /root/project/launch.sh --seed 3"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns("tests", "__pycache__", "checkpoints", "runs")
    shutil.copytree(PROJECT, root, ignore=ignored)
    (root / "pyproject.toml").write_text('[project]\nname = "project"\n')
    (root / "experiment.isc").write_text(TEXT)
    return root


def made(root: Path) -> dict[str, dict[str, object]]:
    files = [file for file in root.glob("*.isc") if file.name != "experiment.isc"]
    return {file.name: load_toml(file.read_text()) for file in files}


def test_a_file_for_each_combination(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(root / "experiment.isc", ["learning-rate=1e-3,3e-3", "epochs=2"], root) == 0
    files = made(root)
    assert files.keys() == {f"experiment-learning-rate-{rate}-epochs-2.isc" for rate in ("1e-3", "3e-3")}
    one = files["experiment-learning-rate-1e-3-epochs-2.isc"]
    assert one["command"] == "bash /root/project/launch.sh --seed 3 --learning-rate 1e-3 --epochs 2"
    assert one["experiment_name"] == "Otters, learning-rate 1e-3, epochs 2"
    assert one["gpus"] == 8
    assert "# A comment that stays." in (root / "experiment-learning-rate-1e-3-epochs-2.isc").read_text()
    said = capsys.readouterr().out
    assert f"isc train {root / 'experiment-learning-rate-3e-3-epochs-2.isc'}" in said
    assert "ERROR" not in said
    assert sweep(root / "experiment.isc", ["learning-rate=1e-3,3e-3", "epochs=2"], root) == 0, (
        "again is the same"
    )


@pytest.mark.parametrize(
    "after",
    ["", " && echo done", " | tee f", " || sleep 60", "; sleep 3", " 2>&1", " # a note", " > '/tmp/a b'"],
)
@pytest.mark.parametrize("before", ["", "cd /root/project && ", "true; "])
def test_options_are_the_training_s_whatever_comes_after_it(before: str, after: str, tmp_path: Path) -> None:
    """At the end of the command they would be another program's, and all points the same training."""
    command = before + "bash /root/project/launch.sh --seed 3 --data-root '/x y'"
    new = module._with_options(command + after, " --epochs 2", tmp_path)
    assert new == command + " --epochs 2" + after


@pytest.mark.parametrize(
    ("begin", "end"), [("(", ")"), ("if true; then ", "; fi"), ("chmod +x /root/project/launch.sh && ", "")]
)
def test_options_stay_within_what_encloses_the_training(begin: str, end: str, tmp_path: Path) -> None:
    command = f"{begin}bash /root/project/launch.sh --seed 3"
    assert module._with_options(command + end, " --x 1", tmp_path) == f"{command} --x 1{end}"


@pytest.mark.parametrize(
    "command",
    [
        "bash -c 'bash /root/project/launch.sh'",
        "bash /root/project/launch.sh && bash /root/project/launch.sh",
        "python /root/project/other.py && ls",
    ],
)
def test_a_command_in_which_nobody_can_tell_the_place_is_refused(command: str, tmp_path: Path) -> None:
    with pytest.raises(IscError, match="no one place") as raised:
        module._with_options(command, " --x 1", tmp_path)
    assert raised.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("setting", ["learning-rat=1", "epochs=0,1"])
def test_what_train_py_refuses_is_written_nowhere(
    root: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(root / "experiment.isc", [setting], root) == 1
    said = capsys.readouterr().out
    assert "ERROR: experiment-" in said
    assert "None is written" in said
    assert made(root) == {}


@pytest.mark.parametrize(
    "settings",
    [["epochs"], ["epochs="], ["=1"], ["a=1", "a=2"], [], ["a=" + ",".join("x" * n for n in range(1, 102))]],
)
def test_what_makes_no_sweep(settings: list[str]) -> None:
    with pytest.raises(IscError) as raised:
        points(settings)
    assert raised.value.exit_code is ExitCode.USAGE
    assert raised.value.hint


def test_what_is_there_is_not_overwritten(root: Path) -> None:
    (root / "experiment-epochs-1.isc").write_text("mine")
    with pytest.raises(IscError, match=r"there already.*Delete it first"):
        sweep(root / "experiment.isc", ["epochs=1"], root)
    assert (root / "experiment-epochs-1.isc").read_text() == "mine"


def test_what_was_there_before_is_not_deleted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was right when it was written, and is not this sweep's."""
    assert sweep(root / "experiment.isc", ["epochs=1"], root) == 0
    wrong = Finding("experiment-epochs-2.isc", "wrong", "correct it")
    monkeypatch.setattr(module, "check_launch_file", lambda *_: [wrong])
    assert sweep(root / "experiment.isc", ["epochs=1,2"], root) == 1
    assert made(root).keys() == {"experiment-epochs-1.isc"}


def test_two_points_of_one_name_are_refused(root: Path) -> None:
    with pytest.raises(IscError, match="Two points would have the same file"):
        sweep(root / "experiment.isc", ["model=a/b,a:b"], root)
    assert made(root) == {}


def test_a_folder_that_cannot_be_written_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(file: Path, content: bytes) -> int:
        if file.name == "experiment-epochs-2.isc":
            write(file, content[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(IscError, match=r"cannot be written \(No space left on device\).*epochs-2"):
        sweep(root / "experiment.isc", ["epochs=1,2"], root)
    assert made(root) == {}


def test_what_is_printed_can_be_typed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where one stands, and with a blank in the name."""
    monkeypatch.chdir(root.parent)
    (root / "experiment.isc").rename(root / "my otters.isc")
    assert sweep(Path("project/my otters.isc"), ["epochs=1"], root) == 0
    assert "isc train 'project/my otters-epochs-1.isc'" in capsys.readouterr().out


def test_a_check_that_is_cut_short_leaves_no_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not checked, and the next sweep would take them for another one's."""
    monkeypatch.setattr(module, "check_launch_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sweep(root / "experiment.isc", ["epochs=1,2"], root)
    assert made(root) == {}


WRONG_TYPE = TEXT.replace('"bash /root/project/launch.sh --seed 3"', "5")


@pytest.mark.parametrize(
    "text",
    ["", WRONG_TYPE, "\ufeff" + TEXT, "gpus = =", TEXT.replace('"bash', '"""\nbash').replace('3"', '3"""')],
)
def test_a_launch_file_that_cannot_be_changed(root: Path, text: str) -> None:
    (root / "experiment.isc").write_text(text)
    with pytest.raises(IscError, match=r"cannot be read|not on one line"):
        sweep(root / "experiment.isc", ["epochs=1"], root)
    assert made(root) == {}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(tmp_path / "none.isc"), "--set", "epochs=1"])
    assert ended.value.code == ExitCode.USAGE
