"""The template and a project as they were, out of templates.tar.xz; see make_fixture.py."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

from baking import IDENTITY, git, passes, run
from make_fixture import ARCHIVE

CRUFT = (sys.executable, "-m", "cruft")


def unpack(state: str, directory: Path) -> Path:
    """A state of COMMITS: the folder with `template` and `project` in it."""
    with tarfile.open(ARCHIVE) as tar:
        members = [member for member in tar if member.name.startswith(f"{state}/")]
        tar.extractall(directory, members, filter="data")
    return directory / state


def commit(repository: Path, message: str) -> str:
    """Commits all that there is, and returns the commit."""
    git("add", "--all", cwd=repository)
    git(*IDENTITY, "commit", "-q", "-m", message, cwd=repository)
    return git("rev-parse", "HEAD", cwd=repository).strip()


def replace(file: Path, old: str, new: str) -> None:
    """Puts a text in the place of one that a file has once."""
    text = file.read_text()
    assert text.count(old) == 1, f"{file}: {old}"
    file.write_text(text.replace(old, new))


def create(template: Path, place: Path) -> Path:
    """As people do it: cruft create, git init. Returns the project."""
    passes(*CRUFT, "create", "--no-input", template, cwd=place)
    project = place / "isc-experiment"
    git("init", "-q", cwd=project)
    commit(project, "Start")
    return project


def release(repository: Path, template: Path) -> str:
    """Makes the template what it is in another folder, in a new commit."""
    git("rm", "-rq", ".", cwd=repository)
    shutil.copytree(template, repository, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
    return commit(repository, "The newest version")


def update(project: Path) -> str:
    """cruft update, which ends with 0 whatever could not be merged. Returns what it says."""
    result = run(*CRUFT, "update", "--skip-apply-ask", cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def findings(project: Path) -> dict[str, str]:
    """What `isc_runtime check` finds, errors only: place and text."""
    result = run(sys.executable, "-m", "isc_runtime", "check", "--json", cwd=project)
    found = json.loads(result.stdout)["findings"]
    errors = {
        each["where"]: f"{each['what']}. {each['hint']}" for each in found if each["severity"] == "error"
    }
    assert (result.returncode == 0) == (not errors)
    return errors


def train(
    project: Path, directory: Path, *arguments: str, ranks: int = 1, isc_mode: bool = False, path: str = ""
) -> str:
    """Trains to the end in a directory, with a project's train.py, in processes of their own.

    Returns:
        The output.
    """
    directory.mkdir(exist_ok=True)
    places = {
        "LOSSY_ARTIFACT_PATH": directory / "logs",
        "CHECKPOINT_ARTIFACT_PATH": directory / "checkpoints",
    }
    for place in places.values() if isc_mode else ():
        place.mkdir(exist_ok=True)
    variables = {name: str(place) for name, place in places.items()} if isc_mode else {}
    variables["ISC_RUNTIME_DEVICE"] = "cpu"
    python_path = os.pathsep.join(filter(None, [str(project), path]))
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
    command = (sys.executable, *(launcher if ranks > 1 else ()), project / "train.py", *arguments)
    result = run(*command, cwd=directory, OMP_NUM_THREADS="1", PYTHONPATH=python_path, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr
