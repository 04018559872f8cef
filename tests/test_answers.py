"""Bad answers: one line that says what is wrong and what to do, exit 1, and nothing on disk."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib

import isc_template_answers as answers
from baking import literal

NOT_PLAIN = "is not a plain name"
NO_DATASET = "is not an ISC dataset id"
NO_PROJECT = "is not an ISC project id"
NO_GPUS = "is not a number of GPUs"
NO_CHOICE = "is not one of the choices"

BAD = [
    ("project_name", "", "is blank"),
    ("project_name", " \t\n", "is blank"),
    ("project_name", "\u200b\u2060", "is blank"),
    ("project_name", "x" * 101, "has 101 characters. Use at most 100"),
    ("project_name", "\udcff", "is not valid UTF-8"),
    ("project_name", "a {{ b }}", "holds {{, which a later `cruft update` would run as Jinja. Leave it out"),
    ("author", "", "is blank"),
    ("author", "{% raw %}", "holds {%"),
    ("author", "x {#", "holds {#"),
    ("author", "y" * 201, "has 201 characters. Use at most 200"),
    ("author", "ab\udc80", "is not valid UTF-8"),
    ("project_slug", "", NOT_PLAIN),
    ("project_slug", "My-Project", NOT_PLAIN),
    ("project_slug", "my project", NOT_PLAIN),
    ("project_slug", "1st", NOT_PLAIN),
    ("project_slug", "-rf", NOT_PLAIN),
    ("project_slug", "_private", NOT_PLAIN),
    ("project_slug", "trailing-", NOT_PLAIN),
    ("project_slug", "newline\n", NOT_PLAIN),
    ("project_slug", ".", NOT_PLAIN),
    ("project_slug", "..", NOT_PLAIN),
    ("project_slug", "../escape", NOT_PLAIN),
    ("project_slug", "/tmp/escape", NOT_PLAIN),
    ("project_slug", "a/b", NOT_PLAIN),
    ("project_slug", "a\\b", NOT_PLAIN),
    ("project_slug", "naïve", NOT_PLAIN),
    ("project_slug", "a;touch pwned", NOT_PLAIN),
    ("project_slug", "$(touch pwned)", NOT_PLAIN),
    ("project_slug", "{{cookiecutter}}", NOT_PLAIN),
    ("project_slug", "x" * 51, "has 51 characters. Use at most 50"),
    ("project_slug", "class", "is the name of a Python keyword. Choose another, such as class-experiment"),
    ("project_slug", "match", "is the name of a Python keyword"),
    ("project_slug", "json", "is the name of a module of Python's standard library"),
    ("project_slug", "test", "is the name of a module of Python's standard library"),
    ("project_slug", "torch", "is the name of a package that the project uses"),
    ("project_slug", "scikit-learn", "is the name of a package that the project uses"),
    ("project_slug", "cycling-utils", "is the name of a package that the project uses"),
    ("project_slug", "triton", "is the name of a package that the project uses. Choose another"),
    ("project_slug", "wandb", "is the name of a package that the project uses"),
    ("project_slug", "pluggy", "is the name of a package that the project's tools use"),
    ("project_slug", "isc-runtime", "is the name of a part of the generated project"),
    ("project_slug", "train", "is the name of a part of the generated project"),
    ("project_slug", "nul", "is the name of a device on Windows"),
    ("isc_project_id", "my project", NO_PROJECT),
    ("isc_project_id", "prj-", NO_PROJECT),
    ("isc_project_id", "uds-decorous-field-baritone-250513", NO_PROJECT),
    ("isc_project_id", 'prj-a-250513"\ngpus = 72', NO_PROJECT),
    ("dataset_id", "", NO_DATASET),
    ("dataset_id", "mnist", NO_DATASET),
    ("dataset_id", "uds-decorous-field-baritone", NO_DATASET),
    ("dataset_id", "uds-decorous-field-baritone-250513\n", NO_DATASET),
    ("dataset_id", "uds-a-250513 && touch pwned", NO_DATASET),
    ("dataset_id", "../uds-a-250513", NO_DATASET),
    ("compute_mode", "", NO_CHOICE),
    ("compute_mode", "4", NO_CHOICE),
    ("compute_mode", "0", NO_CHOICE),
    ("compute_mode", "cycles", "Use cycle, interruptible, burst"),
    ("gpus", "", NO_GPUS),
    ("gpus", "0", NO_GPUS),
    ("gpus", "-1", NO_GPUS),
    ("gpus", "08", NO_GPUS),
    ("gpus", "8.0", NO_GPUS),
    ("gpus", "1e1", NO_GPUS),
    ("gpus", "eight", NO_GPUS),
    ("gpus", "٨", NO_GPUS),
    ("gpus", "8\n", NO_GPUS),
    ("gpus", "73", "Give a whole number from 1 to 72"),
    ("license", "GPL", "Use MIT, BSD-3-Clause, Apache-2.0, Proprietary"),
]  # fmt: skip


@dataclass
class Desk:
    """A place to bake in, with all that a bake could leave litter in: parent, home, temporary files."""

    parent: Path

    @property
    def cwd(self) -> Path:
        return self.parent / "cwd"

    def environment(self) -> dict[str, str]:
        places = {"HOME": str(self.parent / "home"), "TMPDIR": str(self.parent / "tmp"), "PWD": str(self.cwd)}
        return {**os.environ, **places}

    def files(self) -> list[Path]:
        return sorted(self.parent.rglob("*"))

    def cookiecutter(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("cookiecutter", *arguments)

    def cruft(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("cruft", *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, cwd=self.cwd, env=self.environment(), capture_output=True, text=True, check=False
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    for name in ("cwd", "home", "tmp"):
        (tmp_path / name).mkdir()
    return Desk(tmp_path)


@pytest.mark.parametrize(("question", "answer", "message"), BAD)
def test_a_bad_answer_is_refused(
    template: Path, desk: Desk, question: str, answer: str, message: str
) -> None:
    before = desk.files()
    result = desk.cookiecutter("--no-input", str(template), f"{question}={literal(answer)}")
    said = result.stdout + result.stderr
    assert result.returncode == 1
    assert said.startswith(f"{question}: {json.dumps(answer)[:50]}"), "which answer, and to what"
    assert message in said
    assert len(said.splitlines()) <= 2
    assert "Traceback" not in said
    assert desk.files() == before


@pytest.mark.parametrize(("question", "answer"), [("gpus", "99"), ("compute_mode", "fast")])
def test_cruft_shows_the_same_line(template: Path, desk: Desk, question: str, answer: str) -> None:
    before = desk.files()
    given = json.dumps({question: answer})
    result = desk.cruft("create", "--no-input", str(template), "--extra-context", given)
    assert result.returncode == 1
    assert result.stdout + result.stderr == f"{answers.problem(question, {question: answer})}\n"
    assert desk.files() == before


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("gpu=4", '"gpu" is no question of this template. Did you mean gpus?'),
        ("Licence=MIT", "Did you mean license?"),
        ("batch=4", "It asks for project_name, project_slug, author, "),
    ],
)
def test_an_answer_to_what_is_no_question_is_refused(
    template: Path, desk: Desk, given: str, hint: str
) -> None:
    before = desk.files()
    result = desk.cookiecutter("--no-input", str(template), "gpus=4", given)
    assert result.returncode == 1
    assert hint in result.stdout
    assert len((result.stdout + result.stderr).splitlines()) == 1
    name, _, value = given.partition("=")
    under_cruft = desk.cruft(
        "create", "--no-input", str(template), "--extra-context", json.dumps({name: value})
    )
    assert under_cruft.stdout + under_cruft.stderr == result.stdout
    assert desk.files() == before


def test_a_config_file_may_answer_other_templates_questions(template: Path, desk: Desk) -> None:
    config = desk.parent / "team.yaml"
    config.write_text(json.dumps({"default_context": {"email": "ada@example.org"}}))
    result = desk.cookiecutter("--no-input", "--config-file", str(config), str(template))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("question", "typed", "meant"),
    [
        ("compute_mode", "3", "burst"),
        ("compute_mode", " Burst ", "burst"),
        ("license", "mit", "MIT"),
        ("license", "APACHE-2.0", "Apache-2.0"),
        ("license", "4", "Proprietary"),
        ("gpus", "3", "3"),
        ("author", "mit", "mit"),
    ],
)
def test_a_choice_is_understood_by_number_and_in_any_case(question: str, typed: str, meant: str) -> None:
    assert answers.understood(question, typed) == meant


def test_what_was_understood_is_what_is_written(template: Path, desk: Desk) -> None:
    result = desk.cookiecutter("--no-input", str(template), "compute_mode=Burst", "gpus=72", "license=mit")
    assert result.returncode == 0, result.stdout + result.stderr
    project = desk.cwd / "isc-experiment"
    assert 'compute_mode = "burst"' in (project / "experiment.isc").read_text()
    assert 'license = "MIT"' in (project / "pyproject.toml").read_text()
    assert (project / "LICENSE").read_text().startswith("MIT License")


def test_what_may_be_refused_is_written_and_said_with_its_source(template: Path, desk: Desk) -> None:
    """One rule for both: that of the project's own check."""
    result = desk.cookiecutter("--no-input", str(template), "gpus=17")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gpus = 17" in (desk.cwd / "isc-experiment" / "experiment.isc").read_text()
    said = result.stdout.partition("Before you submit:")[2]
    for words in ("17 GPUs in cycle mode may be refused", "In July 2025", "docs.strongcompute.com"):
        assert words in said


def test_menus_have_all_choices_with_their_numbers(template: Path) -> None:
    labels = json.loads((template / "cookiecutter.json").read_text())["__prompts__"]
    assert labels.keys() == answers.RULES.keys()
    for question, choices in answers.CHOICES.items():
        shown = re.sub(r"\[/?[a-z ]*\]", "", labels[question])
        assert re.findall(r"^    (\d) - ([\w.-]+)", shown, re.MULTILINE) == [
            (str(number), choice) for number, choice in enumerate(choices, 1)
        ]
        assert shown.endswith(f"Choose from [{'/'.join(map(str, range(1, len(choices) + 1)))}]")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("project_slug", "../escape"),
        ("project_slug", "torch"),
        ("gpus", "99"),
        ("gpus", 8),
        ("author", None),
        ("license", ["MIT"]),
        ("dataset_id", 'uds-a-250513"""); __import__("os").system("touch pwned") #'),
    ],
)
def test_a_bad_answer_is_refused_when_replayed(
    template: Path, desk: Desk, question: str, answer: object
) -> None:
    replayed = desk.parent / "replay.json"
    replayed.write_text(json.dumps({"cookiecutter": {**GOOD, question: answer}}))
    (
        desk.parent / "home" / ".cookiecutter_replay"
    ).mkdir()  # where cookiecutter notes the answers of every bake
    before = desk.files()
    result = desk.cookiecutter("--replay-file", str(replayed), str(template))
    assert result.returncode == 1
    assert result.stderr.startswith(f"{question}: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == "Hook script failed (exit status: 1)\n"
    assert [path for path in desk.files() if path not in before] == [
        desk.parent / "home" / ".cookiecutter_replay" / "replay.json"
    ]


GOOD = {
    "project_name": "Fine",
    "project_slug": "fine",
    "author": "Ada",
    "isc_project_id": "prj-brave-otter-251124",
    "dataset_id": "uds-decorous-field-baritone-250513",
    "compute_mode": "burst",
    "gpus": "72",
    "license": "Apache-2.0",
}


def test_good_answers_are_replayed(template: Path, desk: Desk) -> None:
    replayed = desk.parent / "replay.json"
    replayed.write_text(json.dumps({"cookiecutter": GOOD}))
    result = desk.cookiecutter("--replay-file", str(replayed), str(template))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gpus = 72" in (desk.cwd / "fine" / "experiment.isc").read_text()
    assert list((desk.parent / "tmp").iterdir()) == []


def test_a_team_s_defaults_come_from_a_config_file_and_answers_from_the_last_bake(
    template: Path, desk: Desk
) -> None:
    """As the README has it: --config-file, then --replay, which asks nothing."""
    config = desk.parent / "team.yaml"
    team = {"author": "Vision group", "compute_mode": "interruptible", "license": "Proprietary"}
    config.write_text(json.dumps({"default_context": team, "replay_dir": str(desk.parent / "home")}))
    first = desk.cookiecutter("--no-input", "--config-file", str(config), str(template), "gpus=16")
    assert first.returncode == 0, first.stderr
    project = desk.cwd / "isc-experiment"
    launch = (project / "experiment.isc").read_text()
    assert 'compute_mode = "interruptible"' in launch
    assert "gpus = 16" in launch
    assert "Vision group. All rights reserved." in (project / "LICENSE").read_text()

    second = desk.cookiecutter(
        "--replay", "--config-file", str(config), "-o", str(desk.parent), str(template)
    )
    assert second.returncode == 0, second.stderr
    assert (desk.parent / "isc-experiment" / "experiment.isc").read_text() == launch


def test_a_team_s_bad_default_is_refused_like_any_answer(template: Path, desk: Desk) -> None:
    config = desk.parent / "team.yaml"
    config.write_text(json.dumps({"default_context": {"compute_mode": "fast"}}))
    before = desk.files()
    result = desk.cookiecutter("--no-input", "--config-file", str(config), str(template))
    assert result.returncode == 1
    assert result.stdout.startswith('compute_mode: "fast" is not one of the choices')
    assert len(result.stdout.splitlines()) == 1
    assert desk.files() == before


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("project_slug", "a"),
        ("project_slug", "vision_2-b"),
        ("isc_project_id", ""),
        ("isc_project_id", "prj-brave-otter-251124"),
        ("isc_project_id", "123e4567-e89b-12d3-a456-426614174000"),
        ("dataset_id", "uds-decorous-field-baritone-250513"),
        ("gpus", "1"),
        ("gpus", "16"),
        *(("compute_mode", mode) for mode in answers.COMPUTE_MODES),
        *(("license", name) for name in answers.LICENSES),
    ],
)
def test_a_good_answer_is_accepted(question: str, answer: str) -> None:
    assert answers.problem(question, {question: answer}) is None


def test_no_project_can_have_the_name_of_a_package_that_it_installs(template: Path) -> None:
    """Nor of an extra. uv refuses it, and so does pip where the project is installed."""
    project = template / "{{cookiecutter.project_slug}}"
    table = tomllib.loads((project / "pyproject.toml").read_text())
    extras = table["project"]["optional-dependencies"]
    lines = [*table["project"]["dependencies"], *table["dependency-groups"]["dev"]]
    lines += [line for extra in extras.values() for line in extra]
    lines += [line for line in (project / "requirements.lock").read_text().splitlines() if "==" in line]
    names = {match[0].lower() for line in lines if (match := re.match(r"[A-Za-z0-9._-]+", line))} | {*extras}
    assert {"torch", "pytest", "scikit-learn", "wandb", "mlflow", "triton", "sympy"} <= names
    assert len(names) > 60
    for name in names:
        assert "a package that the project uses" in str(
            answers.problem("project_slug", {"project_slug": name})
        ), name


def test_a_project_that_has_a_name_already_is_updated_under_it(template: Path, desk: Desk) -> None:
    """The list grows with each lock."""
    assert desk.cruft("create", "--no-input", str(template)).returncode == 0
    project = desk.cwd / "isc-experiment"
    for file in (project / ".cruft.json", project / "pyproject.toml"):
        file.write_text(file.read_text().replace("isc-experiment", "triton"))
    result = desk.cruft("diff", "--project-dir", str(project))
    assert result.returncode == 0, result.stdout + result.stderr
    slug = {"project_slug": "../triton"}
    assert "is not a plain name" in str(answers.problem("project_slug", slug, is_update=True))


def test_on_a_terminal_a_bad_answer_is_asked_again_with_the_reason(template: Path, desk: Desk) -> None:
    typed = ["Otters", "torch", "otters", "Ada {{ 7 * 7 }}", "Ada {7}", "", "", "5", "3", "99", "72", "mit"]
    screen = on_a_terminal(desk, [str(template)], typed)
    assert '"torch" is the name of a package that the project uses' in screen
    assert '"99" is not a number of GPUs' in screen
    assert "gpus = 72" in (desk.cwd / "otters" / "experiment.isc").read_text()
    assert '"Ada {{ 7 * 7 }}" holds {{, which a later `cruft update` would run as Jinja' in screen
    assert "Ada {7}" in (desk.cwd / "otters" / "LICENSE").read_text()


def test_what_is_asked_again_has_its_label_and_its_default(template: Path, desk: Desk) -> None:
    typed = ["Otters", "torch", "", "Ada", "", "", "4", "", "99", "", "mit"]
    screen = on_a_terminal(desk, [str(template)], typed)
    label = r"Its folder and package name: .*, - and _ \(otters\): "
    assert len(re.findall(label, screen)) == 2
    assert re.search(rf'"torch" is the name of a package that the project uses.*\n  {label}', screen)
    menu = r"Compute mode\n    1 - cycle: .*\n    2 - interruptible: .*\n    3 - burst: .*\n"
    assert len(re.findall(menu + r"    Choose from \[1/2/3\] \(cycle\): ", screen)) == 2
    assert len(re.findall(r"GPUs: .* \(8\): ", screen)) == 2
    assert "gpus = 8\n" in (desk.cwd / "otters" / "experiment.isc").read_text(), "Enter takes the default"


def test_a_default_that_is_bad_is_not_offered_again(template: Path, desk: Desk) -> None:
    config = desk.parent / "team.yaml"
    config.write_text(json.dumps({"default_context": {"gpus": "73"}}))
    typed = ["Otters", "", "Ada", "", "", "cycle", "", "4", "mit"]
    screen = on_a_terminal(desk, ["--config-file", str(config), str(template)], typed)
    assert '"73" is not a number of GPUs' in screen
    assert len(re.findall(r"GPUs: .* \(73\): ", screen)) == 1
    assert "gpus = 4\n" in (desk.cwd / "otters" / "experiment.isc").read_text()


def test_on_a_terminal_nobody_is_asked_under_no_input(template: Path, desk: Desk) -> None:
    screen = on_a_terminal(desk, ["--no-input", str(template), "gpus=99"], typed=["8"])
    assert '"99" is not a number of GPUs' in screen
    assert list(desk.cwd.iterdir()) == []


def on_a_terminal(desk: Desk, arguments: list[str], typed: list[str]) -> str:
    """What cookiecutter shows on a terminal on which all of `typed` is typed ahead."""
    ours, theirs = pty.openpty()
    os.write(ours, "".join(f"{line}\n" for line in typed).encode())
    command = [sys.executable, "-m", "cookiecutter", *arguments]
    # COLUMNS: no message is broken over two lines.
    environment = {**desk.environment(), "TERM": "dumb", "COLUMNS": "500"}
    process = subprocess.run(
        command, cwd=desk.cwd, env=environment, stdin=theirs, capture_output=True, text=True, check=False
    )
    os.close(ours)
    os.close(theirs)
    return process.stdout + process.stderr
