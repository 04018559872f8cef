"""What a bake writes, from the command line of cookiecutter and of cruft."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

import isc_template_answers as answers
from baking import IDENTITY, Bake, commit, create, files, git, run
from isc_runtime.rehearsal.run import STAND_IN
from isc_runtime.submission.contents.image import image_content

NO_NETWORK = """
import socket
def refuse(*arguments, **options):
    raise AssertionError("no network while baking")
socket.socket.connect = socket.getaddrinfo = refuse
"""


@pytest.fixture
def source(template: Path) -> Path:
    return template / "{{cookiecutter.project_slug}}"


def test_the_defaults_bake_offline_into_a_repository_and_say_what_to_do_next(
    template: Path, tmp_path: Path
) -> None:
    for name in ("cwd", "home", "tmp", "site"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    environment = {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PWD": str(tmp_path / "cwd"),
    }
    command = [sys.executable, "-m", "cookiecutter", "--no-input", str(template)]
    result = run(*command, cwd=tmp_path / "cwd", PYTHONPATH=str(tmp_path / "site"), **environment)

    assert result.returncode == 0, result.stdout + result.stderr
    assert list((tmp_path / "tmp").iterdir()) == [], "a hook was left behind"
    project = tmp_path / "cwd" / "isc-experiment"
    assert git("branch", "--show-current", cwd=project) == "main\n"
    assert git("ls-files", cwd=project).split() == sorted(files(project)), "all of it is staged"
    said = result.stdout.partition("Next steps:\n")[2]
    commands, findings = (block.split("\n") for block in said.strip().split("\n\n"))
    steps = [command.strip() for command in commands]
    assert steps[0] == "cd isc-experiment"
    assert steps[1] == f"git commit -m 'Start from isc-template {recorded_version(project)}'"
    assert steps[2].endswith(" && . .venv/bin/activate && make setup")
    assert steps[3:6] == ["python train.py", "make test", "make rehearse"], "those of a laptop"
    assert steps[6:] == ["make submit  # in a container of the ISC: README.md, Submit to the ISC"]
    assert "\n## Submit to the ISC\n" in (project / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (project / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", "\n".join(steps))) <= targets
    assert findings[0] == "Before you submit:"
    assert re.match(r"  experiment.isc:\d+: .* project is still open", findings[1])


def test_the_next_steps_can_be_pasted_wherever_the_project_is(template: Path, tmp_path: Path) -> None:
    place = tmp_path / "a place; with 'odd' letters"
    place.mkdir()
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(place), str(template)]
    result = run(*command, cwd=tmp_path, PWD=str(tmp_path))
    step = next(line for line in result.stdout.splitlines() if line.strip().startswith("cd "))
    assert shlex.split(step) == ["cd", str(place / "isc-experiment")]


def test_the_project_passes_its_own_check(project: Path) -> None:
    result = run(sys.executable, "-m", "isc_runtime", "check", "--json", cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["fit"]
    said = [(finding["severity"], finding["where"].partition(":")[0]) for finding in report["findings"]]
    warnings = ["experiment.isc", "experiment.isc", "git"]
    assert said == [("warning", where) for where in warnings], "an open id, the default name, no commit yet"
    assert report["image"]["bytes"] < 3 * 10**6
    content = image_content(project).files
    assert {
        "train.py",
        "launch.sh",
        "isc_runtime/checkpointing/stores/store.py",
        "requirements.lock",
    } < content.keys()
    assert any(Path(name).is_relative_to(STAND_IN) for name in content), "rehearse --stand-in needs it"
    assert len(content) == report["image"]["files"]


def test_every_python_file_is_the_template_s_own(project: Path, source: Path) -> None:
    """No answer can become code: no file of Python, and no script, is rendered."""
    copied = {name for name in files(source) if Path(name).suffix in (".py", ".sh", ".lock")}
    assert {"train.py", "launch.sh", "requirements.lock"} < copied
    for name in copied:
        assert (project / name).read_bytes() == (source / name).read_bytes(), name
        assert "{{ cookiecutter" not in (source / name).read_text(), name


def test_nothing_is_missing_and_nothing_is_left_to_fill_in(project: Path, source: Path) -> None:
    assert files(project).keys() == files(source).keys() | {".cruft.json"}
    for name, path in files(project).items():
        assert not re.search(r"\{\{ ?cookiecutter|\{%-? ", path.read_text()), name


def test_git_knows_line_ends_binaries_and_whose_the_runtime_is(project: Path) -> None:
    names = ["launch.sh", "weights.safetensors", "isc_runtime/errors.py", "train.py"]
    said = git("check-attr", "text", "eol", "linguist-vendored", "--", *names, cwd=project).splitlines()
    of = {name: [line.rpartition(": ")[2] for line in said if line.startswith(f"{name}:")] for name in names}
    assert of["launch.sh"] == of["train.py"] == ["auto", "lf", "unspecified"]
    assert of["weights.safetensors"][0] == "unset"
    assert of["isc_runtime/errors.py"] == ["auto", "lf", "set"]


def test_files_keep_their_permissions(project: Path, source: Path) -> None:
    for name, path in files(source).items():
        assert (project / name).stat().st_mode == path.stat().st_mode, name
    assert (project / "launch.sh").stat().st_mode & 0o111


def test_answers_arrive(bake: Bake) -> None:
    project = bake(
        project_name="Owls",
        project_slug="night_owls-2",
        author="Ada",
        isc_project_id="prj-brave-otter-251124",
        dataset_id="uds-quiet-blue-lake-251124",
        compute_mode="burst",
        gpus="72",
        license="Proprietary",
    )
    launch = tomllib.loads((project / "experiment.isc").read_text())
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    assert project.name == metadata["project"]["name"] == "night_owls-2"
    assert launch["experiment_name"] == "Owls"
    assert launch["isc_project_id"] == "prj-brave-otter-251124"
    assert launch["dataset_id_list"] == ["uds-quiet-blue-lake-251124"]
    assert (launch["compute_mode"], launch["gpus"]) == ("burst", 72)
    assert "Ada. All rights reserved." in (project / "LICENSE").read_text()


@pytest.mark.parametrize("mode", answers.COMPUTE_MODES)
@pytest.mark.parametrize("name", answers.LICENSES)
def test_every_choice_passes_the_check(bake: Bake, mode: str, name: str) -> None:
    project = bake(compute_mode=mode, license=name, isc_project_id="prj-brave-otter-251124")
    result = run(sys.executable, "-m", "isc_runtime", "check", cwd=project)
    assert result.returncode == 0, result.stdout
    text = (project / "LICENSE").read_text()
    assert text.splitlines()[0].strip(), "no blank line first"
    assert text.endswith(".\n")


def recorded_version(project: Path) -> str:
    """The version that a project says it came from; its README says the same."""
    recorded: str = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["isc-template"]["version"]
    assert f"isc-template {recorded} by" in (project / "README.md").read_text()
    return recorded


def number(template: Path) -> str:
    version: str = json.loads((template / "cookiecutter.json").read_text())["_template_version"]
    return version


def test_the_recorded_version_is_true(clone: Path, tmp_path: Path) -> None:
    """Of a release its number, between releases the commit, and whether the template was changed besides."""
    release = number(clone)
    git(*IDENTITY, "tag", "--annotate", f"v{release}", "--message=x", cwd=clone)
    assert recorded_version(create(clone, tmp_path)) == release

    later = commit(clone, "NEWS", "x")
    assert recorded_version(create(clone, tmp_path, "-f")) == f"{release}.dev+{later}"
    (clone / "README.md").write_text("changed")
    assert recorded_version(create(clone, tmp_path, "-f")) == f"{release}.dev+{later}.dirty"


@pytest.mark.parametrize("is_released", [True, False])
def test_an_archive_knows_its_version(clone: Path, tmp_path: Path, is_released: bool) -> None:
    expected = number(clone)
    git(*IDENTITY, "tag", "--annotate", f"v{expected}", "--message=x", cwd=clone)
    if not is_released:
        expected += f".dev+{commit(clone, 'NEWS', 'x')}"
    git("archive", "--format=zip", "--prefix=main/", "--output=../main.zip", "HEAD", cwd=clone)
    project = create(tmp_path / "main.zip", tmp_path)
    assert recorded_version(project) == expected
    assert not (project / ".cruft.json").exists(), "nobody knows where updates are to be had"


def test_a_copy_without_history_does_not_pretend(clone: Path, tmp_path: Path) -> None:
    shutil.rmtree(clone / ".git")
    assert recorded_version(create(clone, tmp_path)) == f"{number(clone)}.dev+unknown"


def test_a_replay_records_the_version_that_replays(clone: Path, tmp_path: Path) -> None:
    create(clone, tmp_path)
    later = commit(clone, "NEWS", "x")
    command = [sys.executable, "-m", "cookiecutter", "--replay", "-f", str(clone)]
    assert run(*command, cwd=tmp_path).returncode == 0
    assert recorded_version(tmp_path / "isc-experiment") == f"{number(clone)}.dev+{later}"


def test_the_changelog_has_the_version_or_what_is_not_released_yet(template: Path) -> None:
    headings = re.findall(r"^## \[([^]]+)\]", (template / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [tuple(map(int, heading.split("."))) for heading in headings if heading[0].isdigit()]
    current = tuple(map(int, number(template).split(".")))
    assert released == sorted(set(released), reverse=True)
    if headings[0] == "Unreleased":
        assert current > released[0], "raise _template_version in cookiecutter.json: it is the next one's"
    else:
        assert current == released[0]


def test_without_git_the_project_is_written_all_the_same(template: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", "--no-input", str(template)]
    result = run(*command, cwd=tmp_path, PATH=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "isc-experiment" / "train.py").is_file()
    assert "git commit" not in result.stdout


def cruft(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """What cruft says; it has to succeed."""
    result = run(sys.executable, "-m", "cruft", *arguments, cwd=cwd, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_cruft_creates_a_project_that_it_can_update(template: Path, tmp_path: Path) -> None:
    said = cruft("create", "--no-input", template, cwd=tmp_path, TMPDIR=str(tmp_path), PWD=str(tmp_path))
    project = tmp_path / "isc-experiment"
    head = git("rev-parse", "HEAD", cwd=template).strip()
    assert json.loads((project / ".cruft.json").read_text())["commit"] == head
    assert [path.name for path in tmp_path.iterdir()] == ["isc-experiment"], "something was left behind"
    step = "git init --quiet --initial-branch=main && git add . && git commit -m 'Start from isc-template"
    assert step in said
    assert_committed(project, said)


def assert_committed(project: Path, said: str) -> None:
    """The step with git, done as it is printed, leaves nothing uncommitted."""
    (step,) = re.findall(r"^  (.*git commit -m '.*')$", said, re.MULTILINE)
    identity = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    result = run("bash", "-ec", step, cwd=project, **identity)
    assert result.returncode == 0, result.stderr
    assert git("status", "--porcelain", cwd=project) == ""


@pytest.mark.parametrize("program", ["cookiecutter", "cruft"])
def test_within_a_repository_the_project_is_added_to_it(template: Path, tmp_path: Path, program: str) -> None:
    git("init", "-q", cwd=tmp_path)
    words = ["create"] if program == "cruft" else []
    result = run(sys.executable, "-m", program, *words, "--no-input", template, cwd=tmp_path)
    assert "git init" not in result.stdout
    assert not (tmp_path / "isc-experiment" / ".git").exists()
    if program == "cruft":
        assert_committed(tmp_path / "isc-experiment", result.stdout)


def test_git_s_hooks_are_not_installed_for_a_repository_around_the_project(
    template: Path, tmp_path: Path
) -> None:
    """They would refuse each commit there; in a repository of its own nothing is said."""
    git("init", "-q", cwd=tmp_path)
    project = create(template, tmp_path)
    for target in ("hooks", "secrets"):
        around = run("make", target, "PYTHON=echo", cwd=project)
        assert around.returncode == 2
        assert around.stderr.startswith("This project is the folder isc-experiment/ of another repository")
        assert "pre_commit" not in around.stdout
    git("init", "-q", cwd=project)
    for target in ("hooks", "secrets"):
        own = run("make", target, "PYTHON=echo", cwd=project)
        assert (own.returncode, own.stderr) == (0, "")
        assert "-m pre_commit" in own.stdout


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("git@example.org:x.git", "git@example.org:x.git"),
        ("ssh://git@example.org/x", "ssh://git@example.org/x"),
        ("https://ada:secret@example.org:80/x", "https://example.org:80/x"),
        ("https://oauth2:tok/en@example.org/x", "unknown"),
    ],
)
def test_an_image_is_labelled_with_no_password(bake: Bake, origin: str, source: str) -> None:
    project = bake()
    git("config", "remote.origin.url", origin, cwd=project)
    said = run("make", "--dry-run", "image", cwd=project).stdout
    assert f'image.source="{source}"' in said


def test_train_py_tells_an_older_python_so(project: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    ended = run(sys.executable, "train.py", cwd=project, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 3
    assert ended.stderr.startswith("ERROR: This project needs Python 3.10 or newer, and this is 3.9: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", ["cookiecutter", "cruft"])
def test_updates_and_diffs_say_nothing_of_temporary_folders(
    clone: Path, tmp_path: Path, program: str
) -> None:
    """What cookiecutter made is updated like what cruft made."""
    words = ["create"] if program == "cruft" else []
    result = run(sys.executable, "-m", program, *words, "--no-input", clone, cwd=tmp_path)
    project = tmp_path / "isc-experiment"
    assert_committed(project, result.stdout)
    assert cruft("diff", "--exit-code", cwd=project) == "", "the project is as the template has it"
    assert "is up to date" in cruft("check", cwd=project)

    later = commit(clone, "{{cookiecutter.project_slug}}/NEWS", "{{ cookiecutter.author }}\n")
    said = cruft("update", "--skip-apply-ask", cwd=project)
    assert said.splitlines() == ["Good work! Project's cruft has been updated and is as clean as possible!"]
    assert (project / "NEWS").read_text() == "The ISC Experiment authors\n"
    assert recorded_version(project) == f"{number(clone)}.dev+{later}"


def test_what_cookiecutter_made_keeps_its_answers_when_it_is_updated(clone: Path, tmp_path: Path) -> None:
    answers = ("project_name=Night owls", "compute_mode=Burst", "gpus=72", "license=mit", "author=Ada")
    command = [sys.executable, "-m", "cookiecutter", "--no-input", str(clone), *answers]
    said = run(*command, cwd=tmp_path).stdout
    project = tmp_path / "night-owls"
    assert_committed(project, said)
    before = (project / "experiment.isc").read_text()
    commit(clone, "{{cookiecutter.project_slug}}/NEWS", "{{ cookiecutter.compute_mode }}\n")
    cruft("update", "--skip-apply-ask", cwd=project)
    assert (project / "NEWS").read_text() == "burst\n"
    assert (project / "experiment.isc").read_text() == before
    context = json.loads((project / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert (context["gpus"], context["author"]) == ("72", "Ada")


def test_updates_come_from_where_a_clone_came_from_and_no_password_is_kept(
    clone: Path, tmp_path: Path
) -> None:
    git("clone", "-q", str(clone), "theirs", cwd=tmp_path)
    clone = tmp_path / "theirs"
    git("remote", "set-url", "origin", "https://ada:secret@example.org/isc-template.git", cwd=clone)
    link = json.loads((create(clone, tmp_path) / ".cruft.json").read_text())
    assert link["template"] == "https://example.org/isc-template.git"
    assert link["commit"] == git("rev-parse", "HEAD", cwd=clone).strip()
    assert "secret" not in json.dumps(link)

    commit(clone, "NEWS", "not pushed\n")
    link = json.loads((create(clone, tmp_path, "-f") / ".cruft.json").read_text())
    assert link["template"] == str(clone), "the commit is nowhere else"


def test_a_template_with_changes_that_are_not_committed_is_not_linked(clone: Path, tmp_path: Path) -> None:
    (clone / "README.md").write_text("changed")
    assert not (create(clone, tmp_path) / ".cruft.json").exists()


def test_cruft_update_takes_each_version_s_own_rules(template: Path, tmp_path: Path) -> None:
    """Both versions are rendered in one process: the new one with a filter that the old one does not have."""
    clone = tmp_path / "isc-template"
    git("clone", "-q", str(template), str(clone), cwd=tmp_path)
    assert run(sys.executable, "-m", "cruft", "create", "--no-input", clone, cwd=tmp_path).returncode == 0
    project = tmp_path / "isc-experiment"
    for arguments in (["init", "-q"], ["add", "-A"], [*IDENTITY, "commit", "-q", "-m", "mine"]):
        git(*arguments, cwd=project)

    rules = clone / "isc_template_answers.py"
    rules.write_text(rules.read_text() + '\nFILTERS["shout"] = str.upper\n')
    (clone / "{{cookiecutter.project_slug}}" / "NEWS").write_text("{{ cookiecutter.project_name | shout }}\n")
    git("add", "-A", cwd=clone)
    git(*IDENTITY, "commit", "-q", "-m", "new", cwd=clone)

    result = run(sys.executable, "-m", "cruft", "update", "--skip-apply-ask", cwd=project)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (project / "NEWS").read_text() == "ISC EXPERIMENT\n"


def test_a_template_that_writes_a_broken_project_is_found_out(template: Path, tmp_path: Path) -> None:
    clone = tmp_path / "isc-template"
    git("clone", "-q", str(template), str(clone), cwd=tmp_path)
    (clone / "{{cookiecutter.project_slug}}" / "launch.sh").unlink()
    result = run(sys.executable, "-m", "cookiecutter", "--no-input", clone, cwd=tmp_path)
    assert result.returncode == 1
    assert "does not pass its own check" in result.stderr
    assert "launch.sh" in result.stderr
    assert not (tmp_path / "isc-experiment").exists()


@pytest.mark.parametrize(
    "name", ["isc_runtime/__pycache__", ".pytest_cache", ".mypy_cache", "checkpoints", "runs"]
)
def test_what_tools_left_in_the_template_is_not_copied(template: Path, tmp_path: Path, name: str) -> None:
    clone = tmp_path / "isc-template"
    git("clone", "-q", str(template), str(clone), cwd=tmp_path)
    (clone / "{{cookiecutter.project_slug}}" / name).mkdir()
    result = run(sys.executable, "-m", "cookiecutter", "--no-input", clone, cwd=tmp_path)
    assert result.returncode == 1
    assert f"{name}: left by a tool in the template. Remove it there" in result.stderr
    assert not (tmp_path / "isc-experiment").exists()


@pytest.mark.parametrize("is_released", [True, False])
def test_what_came_as_an_archive_is_linked_with_one_command(
    clone: Path, tmp_path: Path, is_released: bool
) -> None:
    """As the README has it; what is typed are the answers, and then the project's commit or tag."""
    if is_released:
        git(*IDENTITY, "tag", "--annotate", f"v{number(clone)}", "--message=x", cwd=clone)
    git("archive", "--format=zip", "--prefix=main/", "--output=../main.zip", "HEAD", cwd=clone)
    project = create(tmp_path / "main.zip", tmp_path)
    version, _, recorded = recorded_version(project).partition("+")
    commit(clone, "{{cookiecutter.project_slug}}/NEWS", "later\n")
    typed = "\n" * len(answers.RULES) + f"{recorded or f'v{version}^0'}\n"
    command = [sys.executable, "-m", "cruft", "link", str(clone)]
    result = subprocess.run(command, cwd=project, input=typed, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert cruft("diff", "--exit-code", cwd=project) == ""
    for arguments in (["add", "-A"], [*IDENTITY, "commit", "-q", "-m", "linked"]):
        git(*arguments, cwd=project)
    cruft("update", "--skip-apply-ask", cwd=project)
    assert (project / "NEWS").read_text() == "later\n"
