"""`make setup` installs what pyproject.toml names, by pip or uv, with the torch that was asked for."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.errors import IscError
from isc_runtime.submission import installation
from isc_runtime.submission.installation import CPU_WHEELS, build_of, install, pinned, torch_build
from isc_runtime.submission.lock import check_lock
from isc_runtime.tests.processes import PROJECT

Commands = list[list[str]]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """What would be run, on Linux without a GPU and without torch."""
    said: Commands = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        constraints = Path(command[command.index("--constraint") + 1]).read_text()
        assert "numpy==" in constraints
        assert "--hash" not in constraints, "pip would ask for hashes of all that is installed"
        said.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(installation, "Path", lambda path: Path(str(path).replace("/proc/driver/", "/no/")))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else found(name))
    hidden: set[str] = {"pip", "uv"}
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(metadata, "version", missing)
    return said


def missing(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def have(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These programs are on the PATH, or are modules of Python."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in names else None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if f"/bin/{name}" in names else None)


def test_pip_installs_all_that_is_named_and_the_cpu_build_where_there_is_no_gpu(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, "pip", "uv", "/bin/uv")
    assert install(PROJECT, "auto") == 7, "the installer's own exit code"
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[4:6] == list(CPU_WHEELS)
    assert {"torch==2.13.0", "pytest", "uv", "tomli; python_version < '3.11'"} <= set(command)
    said = capsys.readouterr().out
    assert "torch for CPU: about 0.4 GB to download" in said
    assert "make setup TORCH=cuda" in said


def test_the_cuda_build_comes_where_there_is_a_gpu(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, "pip", "/bin/nvidia-smi")
    install(PROJECT, "auto")
    install(PROJECT, "cpu", ["--find-links", "/wheels"])
    with_cuda, with_cpu = commands
    assert not {*CPU_WHEELS, "--find-links"} & set(with_cuda)
    assert with_cpu[4:6] == ["--find-links", "/wheels"]
    assert "torch for CUDA: about 3 GB to download" in capsys.readouterr().out.splitlines()[0]


def lock_for(build: str, directory: Path) -> Path:
    """A project whose lock is for a build of torch, as `make lock TORCH=...` writes it."""
    (directory / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text())
    lock = (PROJECT / "requirements.lock").read_text()
    lock = f"--extra-index-url https://download.pytorch.org/whl/{build}\n" + lock.replace(
        "torch==2.13.0 ", f"torch==2.13.0+{build} "
    )
    (directory / "requirements.lock").write_text(lock)
    return directory


def test_a_lock_for_another_cuda_is_what_a_machine_with_a_gpu_installs(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = lock_for("cu128", tmp_path)
    assert build_of(project / "requirements.lock") == "cu128"
    assert build_of(PROJECT / "requirements.lock") == "cuda"
    assert "torch==2.13.0" in " ".join(pinned(project / "requirements.lock"))
    assert not any("+cu" in line or line.startswith("-") for line in pinned(project / "requirements.lock"))
    assert not [finding for finding in check_lock(project) if "torch" in finding.what]
    have(monkeypatch, "pip")
    install(project, "auto")
    have(monkeypatch, "pip", "/bin/nvidia-smi")
    install(project, "auto")
    install(project, "cu126")
    without_gpu, with_gpu, other = commands
    assert without_gpu[4:6] == list(CPU_WHEELS)
    assert with_gpu[4:6] == ["--extra-index-url", "https://download.pytorch.org/whl/cu128"]
    assert other[4:6] == ["--extra-index-url", "https://download.pytorch.org/whl/cu126"]
    assert "torch for CU128: about 3 GB to download" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        ((), ""),
        (("TORCH=cuda",), ""),
        (("TORCH=cu126",), "--extra-index-url https://download.pytorch.org/whl/cu126"),
        (("TORCH=cpu", "CPU_WHEELS=--find-links /wheels"), "--find-links /wheels"),
    ],
)
def test_make_lock_notes_the_build_and_keeps_it(
    tmp_path: Path, arguments: tuple[str, ...], index: str
) -> None:
    for project in (PROJECT, lock_for("cu128", tmp_path)):
        if not arguments and project == tmp_path:
            index = "--extra-index-url https://download.pytorch.org/whl/cu128"
        command = ["make", "-n", "-f", str(PROJECT / "Makefile"), "lock", "PYTHON=python3", *arguments]
        said = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
        assert ("unsafe-best-match" in said) == bool(index)
        assert index in said
        assert ("--upgrade-package torch " in said) == bool(arguments), "or uv keeps what the lock has"
        assert ("extra-index-url" in said) == ("extra" in index)


@pytest.mark.parametrize(
    ("there", "expected"), [("uv", [sys.executable, "-m", "uv"]), ("/bin/uv", ["/bin/uv"])]
)
def test_an_environment_made_by_uv_has_no_pip(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, there: str, expected: list[str]
) -> None:
    have(monkeypatch, there)
    install(PROJECT, "cpu")
    (command,) = commands
    assert command[: len(expected)] == expected
    assert command[len(expected) : len(expected) + 4] == ["pip", "install", "--python", sys.executable]
    assert "unsafe-best-match" in command, "or the CPU build, on the second index, would never be found"


def test_neither_pip_nor_uv(commands: Commands) -> None:
    with pytest.raises(IscError, match=r"neither pip nor uv.*Install uv, or pip"):
        install(PROJECT, "cpu")


def test_torch_that_is_there_stays_and_no_size_is_said(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    have(monkeypatch, "pip")
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu")
    install(PROJECT, "cuda")
    said = capsys.readouterr().out
    assert "torch 2.13.0+cpu is here already, and stays" in said
    assert "GB" not in said


def test_extras(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "pip")
    install(PROJECT, "cpu", extras="wandb, mlflow")
    install(PROJECT, "cpu")
    with_extras, without = commands
    assert with_extras[-2:] == ["wandb", "mlflow-skinny"]
    assert len(with_extras) == len(without) + 2
    with pytest.raises(IscError, match=r"no extra comet: .*pyproject\.toml\. It has mlflow, wandb"):
        install(PROJECT, "cpu", extras="wandb,comet")


def test_macos_has_one_build(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    have(monkeypatch, "pip")
    install(PROJECT, "auto")
    assert not set(CPU_WHEELS) & set(commands[0])
    assert "macOS" in capsys.readouterr().out
    with pytest.raises(IscError, match="no CUDA build of torch for macOS"):
        torch_build("cuda")


@pytest.mark.parametrize("text", ["", "[", "[project]\ndependencies = []\n", "project = 1\n"])
def test_a_pyproject_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(IscError, match=r"cannot be read .*pyproject\.toml.*It must have dependencies"):
        install(tmp_path, "cpu")


def test_the_versions_are_those_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(
        "# x\na==1 ; python_version < '3' \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\n"
    )
    assert pinned(tmp_path / "lock") == ["a==1 ; python_version < '3'"]
