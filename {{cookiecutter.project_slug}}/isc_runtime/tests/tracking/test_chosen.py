"""--tracker names what is had, and what cannot be had ends all ranks with one line."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from isc_runtime import options
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.record import recorded
from isc_runtime.tests.processes import PROJECT
from isc_runtime.tests.tracking.test_guarded import Recorder
from isc_runtime.tracking.chosen import PACKAGES, check_trackers, make_trackers
from isc_runtime.tracking.tensorboard_events import TensorBoardEvents

DEFAULT_ONLY = """
import sys
from pathlib import Path
from isc_runtime.logs import Scalars
with Scalars(Path("runs")) as scalars:
    scalars.begin(0)
    scalars.add("loss", 1.0, 1)
print(sorted({"wandb", "mlflow"} & {name.partition(".")[0] for name in sys.modules}))
"""


def words(*command_line: str) -> list[str]:
    parser = options.make_parser("x")
    options.add_runtime_options(parser)
    given: list[str] = options.parse(parser, [*command_line]).tracker
    return given


def test_what_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words() == ["tensorboard"]
    mine = f"{Recorder.__module__}:Recorder"
    first, second = make_trackers(words("--tracker", "tensorboard", mine), tmp_path)
    assert isinstance(first, TensorBoardEvents)
    assert (second.name, second.directory) == ("The recorder", tmp_path)  # type: ignore[attr-defined]
    assert make_trackers(words("--tracker", "none"), tmp_path) == []
    with pytest.raises(SystemExit):
        words("--tracker", ":Mine")
    with pytest.raises(SystemExit):
        words("--tracker", "tensorbord")
    assert "'tensorbord' is none of tensorboard, wandb, mlflow, module:Class" in capsys.readouterr().err


class Unwilling:
    def __init__(self, directory: Path) -> None:
        raise RuntimeError(f"no server in {directory}")


class Deaf:
    name = "Deaf"

    def __init__(self, directory: Path) -> None:
        self.begin = self.add = self.describe = print


@pytest.mark.parametrize(
    "place",
    ["no_such_module:Mine", "json:Mine", "json:dumps.x", ".x:Mine", f"{__name__}:Unwilling", "half_way:Mine"],
)
def test_a_class_that_cannot_be_made_is_named(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_way.py").write_text("raise ValueError('half way')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(IscError, match=f"cannot be made .*--tracker {place}. It is written module:Class"):
        make_trackers([place], tmp_path)


def test_a_class_that_is_no_tracker_does_not_end_a_training_later(tmp_path: Path) -> None:
    with pytest.raises(IscError, match=r"The tracker has no flush, close: --tracker .*:Deaf"):
        make_trackers([f"{__name__}:Deaf"], tmp_path)


def test_one_that_is_named_twice_is_one(tmp_path: Path) -> None:
    assert len(make_trackers(["tensorboard", "none", "tensorboard"], tmp_path)) == 1


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B makes one of its own name wherever it is used."""
    (tmp_path / "only_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGES, "only_a_folder", ("its-package",))
    with pytest.raises(IscError, match="needs the package its-package, which is not installed"):
        check_trackers(["only_a_folder"])


@pytest.mark.parametrize(("word", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_what_is_not_installed_ends_every_rank_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = argparse.Namespace(tracker=[word])
    for rank in (0, 1):
        environment = Environment(lossy_artifact_path=str(tmp_path), rank=rank, world_size=2)
        with pytest.raises(IscError) as raised, recorded(arguments, environment, PROJECT):
            pass
        assert raised.value.exit_code is ExitCode.UNFIT
        said = str(raised.value)
        assert f"--tracker {word} needs the package {package}, which is not installed" in said
        assert f"make setup EXTRAS={word}" in said
        assert "make lock" in said
    check_trackers(["none", "my_module:Mine"])


def test_nothing_is_imported_that_is_not_chosen(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DEFAULT_ONLY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
