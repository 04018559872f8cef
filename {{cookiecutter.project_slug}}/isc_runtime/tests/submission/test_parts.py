"""What runs here must be what the ISC gets: in the image, in git, and with something in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.submission.contents.image import image_content
from isc_runtime.submission.contents.version_control import GitFiles, files_of_git
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.parts import EXPECTED, check_parts
from isc_runtime.submission.project import check, homes
from isc_runtime.tests.processes import PROJECT
from isc_runtime.tests.submission.test_version_control import git

COMMAND = "bash /root/copied/launch.sh"
FROM_PROJECT = (
    *(".dockerignore", ".gitignore", "Dockerfile", "README.md", "launch.sh", "requirements.lock"),
    *("pyproject.toml", "requirements-cycling-utils.txt"),
)
OTHERS = {
    "train.py": "import argparse\nimport model, data\n",
    "model.py": "import torch\n",
    "data.py": "BATCH = 1\n",
    "isc_runtime/__init__.py": "",
    "isc_runtime/rng.py": "x = 1\n",
    "isc_runtime/training/steps.py": "x = 1\n",
    "tests/test_model.py": "x = 1\n",
    "experiment.isc": f'isc_project_id = "prj-quiet-river-261124"\nexperiment_name = "One more"\ngpus = 8\n'
    f'command = "{COMMAND}"\n',
}
Change = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few lines, in a repository, with this project's rules for git and docker."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    root = tmp_path / "copied"
    root.mkdir()
    for name in FROM_PROJECT:
        shutil.copy(PROJECT / name, root / name)
    for name, text in OTHERS.items():
        write(name, text)(root)
    text = (root / "pyproject.toml").read_text()
    dockerfile = re.sub("^WORKDIR .*", "WORKDIR /root/copied", (root / "Dockerfile").read_text(), flags=re.M)
    write("Dockerfile", dockerfile)(root)
    write("pyproject.toml", re.sub("^name = .*", 'name = "copied"', text, count=1, flags=re.MULTILINE))(root)
    git(root, "init", "-q")
    return root


def write(name: str, text: str = "WIDTH = 8\n") -> Change:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return change


def add(name: str, text: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text() + text)


def link(name: str, target: str) -> Change:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target.replace("ROOT", str(root)))

    return change


def several(*changes: Change) -> Change:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def importing(line: str, *changes: Change) -> Change:
    return several(write("model.py", f"{line}\n"), *changes)


def with_git(*arguments: str, folder: str = ".") -> Change:
    return lambda root: git(root / folder, *arguments)


def delete(name: str) -> Change:
    return lambda root: shutil.rmtree(root / name)


def move_out(name: str) -> Change:
    """Leaves a link in its place."""
    return several(lambda root: (root / name).rename(root.parent / name), link(name, f"../{name}"))


def outside(name: str) -> Change:
    """Something that lies beside the project."""
    return write(f"../common/{name}")


def found(root: Path) -> list[Finding]:
    """All but what is said of a launch file that is as short as this one."""
    findings = check(root)
    assert not any("\n" in str(finding) for finding in findings)
    return findings


def errors(root: Path) -> dict[str, str]:
    said: dict[str, str] = {}
    for finding in found(root):
        if finding.severity == "error":
            said[finding.where] = f"{said.get(finding.where, '')}{finding}"
    return said


def test_this_project_is_whole(root: Path) -> None:
    assert found(root) == []
    git(root, "add", "--all")
    assert found(root) == []
    assert files_of_git(root).tracked >= {"experiment.isc", "requirements.lock", "isc_runtime/rng.py"}


PREPARED = OTHERS["experiment.isc"].replace("bash", "bash /root/copied/artifacts/prepare.sh && bash", 1)
WITH_OPTIONS = OTHERS["experiment.isc"].replace(COMMAND, f"{COMMAND} --config ./artifacts/a.toml")
COPIES = """FROM x
WORKDIR /root/copied
COPY isc_runtime isc_runtime
COPY tests tests
COPY *.py *.isc *.toml *.sh *.md req* Docker* .docker* ./
"""
SIZES = "from artifacts.sizes import WIDTH"
# what is planted -> (how, where it is found, what is said)
NOT_THERE: dict[str, tuple[Change, str, list[str]]] = {
    "a module behind a link": (
        importing(
            "from helpers import WIDTH", outside("helpers.py"), link("helpers.py", "../common/helpers.py")
        ),
        "helpers.py",
        ["a link to ../common/helpers.py", "leads nowhere there", "Put a copy of what it leads to"],
    ),
    "a package behind a link": (
        importing("from pkg import WIDTH", outside("pkg/__init__.py"), link("pkg", "../common/pkg")),
        "pkg",
        ["a link to ../common/pkg", "leads nowhere there"],
    ),
    "behind two links": (
        importing(
            "from pkg.one import WIDTH",
            outside("one.py"),
            link("lib/one.py", "../../common/one.py"),
            link("pkg", "lib"),
        ),
        "lib/one.py",
        ["a link to ../../common/one.py"],
    ),
    "a link that only this machine has": (
        importing("import near", write("lib/near.py"), link("near.py", "ROOT/lib/near.py")),
        "near.py",
        ["leads nowhere there", "Make it a relative one."],
    ),
    "the lock behind a link": (move_out("requirements.lock"), "requirements.lock", ["a link to ../requ"]),
    "the runtime behind a link": (move_out("isc_runtime"), "isc_runtime", ["a link to ../isc_runtime"]),
    "ignored by both": (
        importing(SIZES, write("artifacts/sizes.py")),
        "artifacts/sizes.py",
        [
            "The image does not take it, and in a container the training fails: it is code of the training",
            "Change the rule in .dockerignore that keeps it out",
            "Git does not take it, and in a clone the training fails",
            ":/artifacts/, or run: git add --force -- artifacts/sizes.py",
        ],
    ),
    "ignored by both, several": (
        importing(SIZES, write("artifacts/__init__.py"), write("artifacts/sizes.py")),
        "artifacts/__init__.py",
        ["The image does not take it, nor 1 more in artifacts, and"],
    ),
    "in a package without a file of its own": (
        importing(
            "from nets.deep.blocks import WIDTH", write("nets/deep/blocks.py"), add(".dockerignore", "nets\n")
        ),
        "nets/deep/blocks.py",
        ["The image does not take it"],
    ),
    "ignored by git": (
        importing("from nets.build import x", write("nets/build/__init__.py"), add(".gitignore", "build/\n")),
        "nets/build/__init__.py",
        ["Git does not take it, and in a clone the training fails", ":build/, or run"],
    ),
    "no longer tracked": (
        importing(
            "import helper",
            write("helper.py"),
            with_git("add", "--all"),
            with_git("rm", "-q", "--cached", "helper.py"),
            add(".gitignore", "helper.py\n"),
        ),
        "helper.py",
        ["Git does not take it"],
    ),
    "in a repository of its own": (
        importing("from other import x", write("other/__init__.py"), with_git("init", "-q", folder="other")),
        "other/__init__.py",
        ["Git does not take it", "Delete other/.git, which makes another repository of it"],
    ),
    "a package that hides data.py": (
        write("data/__init__.py"),
        "data/__init__.py",
        [
            "in a container Python takes data.py, which this one hides here",
            "Rename data.py or the folder beside",
        ],
    ),
    "not copied": (
        importing("import nets.one", write("nets/one.py"), write("Dockerfile", COPIES)),
        "nets/one.py",
        ["Copy it in the Dockerfile: COPY . ."],
    ),
    "a module of the runtime that the image leaves out": (
        add(".dockerignore", "**/training\n"),
        "isc_runtime/training/steps.py",
        ["The image does not take it", "the template's part of the project"],
    ),
    "a module of the runtime that git leaves out": (
        add(".gitignore", "training/\n"),
        "isc_runtime/training/steps.py",
        ["Git does not take it", ":training/"],
    ),
    "all of the runtime": (
        add(".dockerignore", "isc_*\n"),
        "isc_runtime",
        ["The image does not take it, and in a container the training fails"],
    ),
    "the training itself": (add(".dockerignore", "*.py\n"), "train.py", ["The image does not take it"]),
    "the recipe": (
        add(".dockerignore", "Dockerfile\n"),
        "Dockerfile",
        ["in a container `submit` refuses: it is the image's recipe"],
    ),
    "options that the command names": (
        several(write("artifacts/a.toml", ""), write("experiment.isc", WITH_OPTIONS)),
        "artifacts/a.toml",
        ["The image does not take it", "Git does not take it", "it is options of the training"],
    ),
    "a script that the command names": (
        several(write("artifacts/prepare.sh", "true\n"), write("experiment.isc", PREPARED)),
        "artifacts/prepare.sh",
        ["The image does not take it", "Git does not take it"],
    ),
}


@pytest.mark.parametrize(("plant", "where", "said"), NOT_THERE.values(), ids=NOT_THERE)
def test_what_runs_here_and_not_there(root: Path, plant: Change, where: str, said: list[str]) -> None:
    plant(root)
    findings = errors(root)
    assert where in findings, findings
    assert [text for text in said if text not in findings[where]] == [], findings[where]


def test_git_settings_of_a_person_are_no_obstacle(root: Path, tmp_path: Path) -> None:
    """Its .gitignore says what is the project, whatever else is ignored on a machine."""
    (tmp_path / "gitconfig").write_text(f'[core]\nexcludesFile = "{tmp_path}/mine"\n')
    (tmp_path / "mine").write_text("*.lock\n*.isc\n*.toml\n*.md\nDockerfile\ntests/\ntraining/\n")
    write("isc_runtime/.env")(root)
    write("credentials.isc")(root)
    assert found(root) == []
    git(root, "add", "--all")
    tracked = files_of_git(root).tracked
    assert tracked >= {"experiment.isc", "requirements.lock", "isc_runtime/training/steps.py"}
    assert not tracked & {"isc_runtime/.env", "credentials.isc"}


def test_other_rules_for_git_lose_nothing_in_silence(root: Path, tmp_path: Path) -> None:
    (tmp_path / "gitconfig").write_text(f'[core]\nexcludesFile = "{tmp_path}/mine"\n')
    (tmp_path / "mine").write_text("*.lock\n*.isc\n")
    write(".gitignore", "")(root)
    said = errors(root)
    assert said.keys() == {"experiment.isc", "requirements.lock"}
    assert f"{tmp_path}/mine:2:*.isc, or run: git add --force -- experiment.isc" in said["experiment.isc"]


FINE: dict[str, Change] = {
    "a link within": importing("import near", write("lib/near.py"), link("near.py", "lib/near.py")),
    "a folder behind a link within": importing("import pkg.one", write("lib/one.py"), link("pkg", "lib")),
    "data on the ISC": link("corpus", "/data/uds-one"),
    "not imported": write("artifacts/sizes.py"),
    "imported by what is not": several(write("artifacts/sizes.py"), write("tools.py", f"{SIZES}\n")),
    "allowed to be missing": importing(
        f"try:\n    {SIZES}\nexcept ImportError:\n    WIDTH = 1", write("artifacts/sizes.py")
    ),
    "no tests in the image": add(".dockerignore", "tests\n*.md\n"),
    "data beside data.py": write("data/labels.csv", "1\n"),
    "forced": several(add(".gitignore", "*.lock\n"), with_git("add", "-f", "requirements.lock")),
    "no git": delete(".git"),
    "git ignores all of it": several(
        delete(".git"), with_git("init", "-q", folder=".."), write("../.gitignore", "copied\n")
    ),
    "a part of a larger repository": several(
        delete(".git"), with_git("init", "-q", folder=".."), with_git("add", "--all", folder="..")
    ),
}


@pytest.mark.parametrize("change", FINE.values(), ids=FINE)
def test_what_is_there_too(root: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent.parent))
    change(root)
    assert found(root) == []


def test_what_is_no_code_is_for_a_person_to_judge(root: Path) -> None:
    outside("words.txt")(root)
    link("words.txt", "../common/words.txt")(root)
    (finding,) = found(root)
    assert (finding.severity, finding.where) == ("warning", "words.txt")


def test_a_submodule_is_to_be_cloned_too(root: Path, tmp_path: Path) -> None:
    outside("__init__.py")(root)
    common = tmp_path / "common"
    git(common, "init", "-q")
    git(common, "add", "--all")
    git(common, "commit", "-q", "-m", "first")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(common), "other")
    importing("from other import WIDTH")(root)
    (finding,) = found(root)
    assert (finding.severity, finding.where) == ("warning", "other/__init__.py")
    assert finding.hint == "Clone with --recurse-submodules."


def test_in_a_container_lies_what_the_isc_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NOT_THERE["a script that the command names"][0](root)
    monkeypatch.setattr("isc_runtime.submission.project.homes", lambda root: [str(root), "/root/copied"])
    assert "artifacts/prepare.sh" not in errors(root)


def test_links_in_a_circle_end(root: Path) -> None:
    link("one", "two")(root)
    link("two", "one")(root)
    assert found(root) == []


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.endswith("/")])
@pytest.mark.parametrize("content", [b"", b"# soon\n  \n"], ids=["empty", "comments"])
def test_nothing_in_a_file(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)
    if name == "README.md" and content.startswith(b"#"):  # a heading
        assert found(root) == []
        return
    said = errors(root)
    assert f"{name}: There is nothing in it: " in said[name]
    assert EXPECTED[name] in said[name]


def test_an_empty_script_would_be_called_completed(root: Path) -> None:
    write("launch.sh", "")(root)
    assert "it would end with 0 at once, which the ISC calls completed" in errors(root)["launch.sh"]


def test_an_empty_folder(root: Path) -> None:
    shutil.rmtree(root / "tests")
    (root / "tests").mkdir()
    assert "There is nothing in it" in errors(root)["tests/"]


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.endswith(("/", ".py", ".sh", ".md"))])
def test_no_text(root: Path, name: str) -> None:
    (root / name).write_bytes(b"\xff\xfe\0garbage")
    assert "cannot be read" in errors(root)[name]


@pytest.mark.parametrize(
    "text", ["FROM scratch\n", "garbage\n", "FROM x\nRUN git clone y\nCOPY --from=y a b\n"]
)
def test_an_image_without_the_project(root: Path, text: str) -> None:
    write("Dockerfile", text)(root)
    said = errors(root)
    assert "It copies nothing of this project into the image" in said.pop("Dockerfile")
    assert said == {}, "once is enough"


def test_a_helper_that_python_cannot_read(root: Path) -> None:
    importing("import helper", write("helper.py", "x = 1\nif x\n"))(root)
    assert errors(root).keys() == {"helper.py:2"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_nobody_may_read(root: Path) -> None:
    for name in ("train.py", "launch.sh"):
        (root / name).chmod(0)
    assert errors(root).keys() >= {"train.py", "launch.sh"}


def test_too_much_to_look_at_is_no_alarm(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isc_runtime.submission.contents.image.MOST_FILES", 3)
    assert errors(root) == {}
    content = image_content(root)
    assert not content.is_complete
    assert list(check_parts(root, [], content, GitFiles())) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[project]\nname = "called"\n', ["/root/called"]),
        ("<<<<<<< ours\n", []),
        ("[project]\n", []),
        ("project = 1\n", []),
    ],
)
def test_where_it_will_be(tmp_path: Path, text: str, expected: list[str]) -> None:
    write("pyproject.toml", text)(tmp_path)
    write("Dockerfile", "FROM x\nWORKDIR /root/in-the-image\nCOPY . .\nWORKDIR /tmp\n")(tmp_path)
    assert homes(tmp_path) == ["/root/in-the-image", *expected, f"/root/{tmp_path.name}"]


def test_the_command_looks_where_the_image_has_it(root: Path) -> None:
    text = (root / "Dockerfile").read_text()
    write("Dockerfile", text.replace("WORKDIR /root/copied", "WORKDIR /workspace/it"))(root)
    (finding,) = found(root)
    assert finding.severity == "warning"
    assert "in /root/copied, and the image has it in /workspace/it" in finding.what
    write("experiment.isc", OTHERS["experiment.isc"].replace("/root/copied", "/workspace/it"))(root)
    assert found(root) == []


@pytest.mark.parametrize("name", ["w.safetensors", "/root/copied/w.safetensors", "~/copied/w.safetensors"])
def test_weights_that_the_command_names_may_be_copied_by_hand(root: Path, name: str) -> None:
    command = f"{COMMAND} --init-from='{name}'"
    write("experiment.isc", OTHERS["experiment.isc"].replace(COMMAND, command))(root)
    write("train.py", "import model, data\n")(root)
    write("w.safetensors", "x")(root)
    said = [finding for finding in found(root) if finding.where == "w.safetensors"]
    assert [finding.severity for finding in said] == ["warning"] * 2
    assert "The image does not take it" in said[0].what
    assert all(finding.what.endswith("it is named by the command") for finding in said)


def test_an_environment_that_the_command_names_is_made_where_it_runs(root: Path) -> None:
    several(write(".venv/pyvenv.cfg", ""), write(".venv/bin/activate", ""))(root)
    command = f"source /root/copied/.venv/bin/activate && {COMMAND}"
    write("experiment.isc", OTHERS["experiment.isc"].replace(COMMAND, command))(root)
    assert found(root) == []


def test_a_project_that_got_another_name_is_where_the_dockerfile_says(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    write("pyproject.toml", text.replace('name = "copied"', 'name = "other"'))(root)
    other = root.rename(root.parent / "another")
    assert found(other) == []


def test_options_beside_the_training_may_be_for_this_machine_alone(root: Path) -> None:
    write("train.toml", "epochs = 3\n")(root)
    assert found(root) == []
    several(add(".gitignore", "train.toml\n"), add(".dockerignore", "train.toml\n"))(root)
    assert [finding.severity for finding in found(root)] == ["warning"] * 2
    assert all("the training has other options" in finding.what for finding in found(root))


def test_a_linked_runtime_looks_at_the_project_that_it_is_linked_into(root: Path) -> None:
    shutil.rmtree(root / "isc_runtime")
    shutil.copytree(PROJECT / "isc_runtime", root.parent / "shared" / "isc_runtime")
    link("isc_runtime", "../shared/isc_runtime")(root)
    command = [sys.executable, "-m", "isc_runtime", "check"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    assert "ERROR: isc_runtime: It is a link to ../shared/isc_runtime, and the image" in said
    assert "missing" not in said
