"""What the tests share: a clean copy of the template, and `bake`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).parents[1]
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]


class Bake(Protocol):
    """Bakes a project with these answers, the others being the defaults, and says where it is."""

    def __call__(self, *, hooks: bool = True, **answers: str) -> Path: ...


def literal(answer: str) -> str:
    """`answer` as it has to be given to cookiecutter from outside, which renders it: a Jinja literal of it."""
    return "{{ " + ascii(answer) + " }}"


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of its own for all that runs below the tests: no settings of git or cookiecutter get in or out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clone of it would be, in a repository of its own: what git ignores is not there."""
    copy = tmp_path_factory.mktemp("template") / "isc-template"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*IDENTITY, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="session")
def bake(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    config = tmp_path_factory.mktemp("config")
    settings = {"cookiecutters_dir": str(config / "clones"), "replay_dir": str(config / "replay")}
    (config / "cookiecutter.yaml").write_text(json.dumps(settings))  # JSON is YAML

    def bake(*, hooks: bool = True, **answers: str) -> Path:
        project = cookiecutter(
            str(template),
            no_input=True,
            extra_context={question: literal(answer) for question, answer in answers.items()},
            output_dir=str(tmp_path_factory.mktemp("baked")),
            config_file=str(config / "cookiecutter.yaml"),
            accept_hooks=hooks,
        )
        return Path(project)

    return bake


@pytest.fixture(scope="session")
def project(bake: Bake) -> Path:
    """A project baked with the defaults, for tests that only read it."""
    return bake()
