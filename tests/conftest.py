"""What the tests share: a clean copy of the template, and `bake`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

from baking import IDENTITY, ROOT, Bake, git, literal


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: all others are run beside it."""
    items.sort(key=lambda item: item.name != "test_its_own_tests_pass")


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of its own for all that the tests run: no settings of git or cookiecutter get in or out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        patch.setenv("ISC_RUNTIME_DEVICE", "cpu")  # asked for by name: the ISC's variables ask for GPUs
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clone of it would be, in a repository of its own: what git ignores is not there."""
    copy = tmp_path_factory.mktemp("template") / "isc-template"
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    git("init", "-q", "-b", "main", cwd=copy)
    git("add", "-A", cwd=copy)
    git(*IDENTITY, "commit", "-q", "-m", "The template", cwd=copy)
    return copy


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Path:
    """A copy of the template's repository, to be changed."""
    git("clone", "-q", str(template), str(tmp_path / "isc-template"), cwd=tmp_path)
    git("remote", "remove", "origin", cwd=tmp_path / "isc-template")
    return tmp_path / "isc-template"


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
