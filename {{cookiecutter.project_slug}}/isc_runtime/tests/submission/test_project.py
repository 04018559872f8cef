"""Each way in which a project can be not ready to submit is found, planted in a copy of this one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.submission.launch_file import check_launch_file
from isc_runtime.submission.launch_keys import DEAD_KEYS, KEYS, VARIABLES
from isc_runtime.submission.parts import EXPECTED
from isc_runtime.submission.project import Finding, check, run_check
from isc_runtime.tests.processes import PROJECT

HOME = "/root/copied"
COMMAND = f"bash {HOME}/launch.sh"
LAUNCH, NEEDED, LOCK = "launch.sh", "pyproject.toml", "requirements.lock"
COMMIT = "requirements-cycling-utils.txt"
ARGUMENT = "ARG FILE=nothing\nCOPY --chmod=755 \\\n  $FILE /x\n"
GOOD = {
    "isc_project_id": '"prj-quiet-river-261124"',
    "experiment_name": '"An experiment"',
    "gpus": "16",
    "compute_mode": '"cycle"',
    "dataset_id_list": '["uds-one"]',
    "command": f'"{COMMAND} --dataset-id uds-one"',
}

TRAIN = """
import argparse
from isc_runtime import options

def parse_arguments(command_line=None):
    parser = argparse.ArgumentParser()
    add = parser.add_argument_group("data").add_argument
    add("--dataset-id"), add("--epochs", type=options.positive), add("--model")
    options.add_checkpoint_options(parser)
    return options.parse(parser, command_line)
"""
OWN = {"train.py": TRAIN, "model.py": 'MODELS = {"one": None, "other": None}\n', "data.py": "BATCH = 1\n"}

Break = Callable[[Path], None]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this project, in a folder of another name, with a training and a launch file of our own."""
    copy = tmp_path / "copied"
    copy.mkdir()
    for name in EXPECTED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / name)
    for name, text in OWN.items():
        write(name, text)(copy)
    replace("pyproject.toml", "^name = .*", 'name = "copied"')(copy)
    replace("Dockerfile", "^WORKDIR .*", f"WORKDIR {HOME}")(copy)
    launch_file()(copy)
    return copy


def launch_file(**changes: str | None) -> Break:
    """Writes the good launch file, with other values; None leaves a key out."""
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    text = "".join(f"{name} = {value}\n" for name, value in values.items())
    return lambda project: write("experiment.isc", text)(project)


def command(text: str, **changes: str | None) -> Break:
    return launch_file(command=json.dumps(text), **changes)


def launch_command(text: str) -> str:
    """The good launch file with another command."""
    return "".join(f"{name} = {value}\n" for name, value in {**GOOD, "command": json.dumps(text)}.items())


def write(name: str, text: str) -> Break:
    def change(project: Path) -> None:
        (project / name).write_text(text, encoding="utf-8")

    return change


def append(name: str, text: str) -> Break:
    return lambda project: write(name, (project / name).read_text() + text)(project)


def replace(name: str, pattern: str, by: str | Callable[[re.Match[str]], str]) -> Break:
    def change(project: Path) -> None:
        text, count = re.subn(pattern, by, (project / name).read_text(), count=1, flags=re.MULTILINE)
        assert count, f"{name} holds no {pattern}"
        write(name, text)(project)

    return change


def require(*lines: str) -> Break:
    """Adds to what the project needs."""
    added = "".join(f'    "{line}",\n' for line in lines)
    return replace(NEEDED, r"^dependencies = \[\n", lambda match: match[0] + added)


def package(name: str, version: str) -> str:
    """As uv.lock has it."""
    return f'[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ virtual = "." }}\n\n'


def uv_lock(**versions: str | None) -> Break:
    """A uv.lock with the versions of requirements.lock, but for some; None leaves one out."""

    def change(project: Path) -> None:
        locked = re.findall(r"^([a-z0-9-]+)==([^ ]+)", (project / LOCK).read_text(), flags=re.MULTILINE)
        packages = [(name, versions.get(name, version)) for name, version in locked]
        write("uv.lock", "".join(package(name, version) for name, version in packages if version))(project)

    return change


def both(one: Break, other: Break) -> Break:
    def change(project: Path) -> None:
        one(project)
        other(project)

    return change


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def delete(name: str) -> Break:
    def change(project: Path) -> None:
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


# what is planted -> (how, where it is found, what is said, what to do)
LAUNCH_FILE = {
    "no TOML": (write("experiment.isc", "gpus = =\n"), "experiment.isc", "line 1", "TOML"),
    "twice": (append("experiment.isc", "gpus = 2\n"), "experiment.isc", "cannot be read", "TOML"),
    "no UTF-8": (lambda p: (p / "experiment.isc").write_bytes(b"\xff"), "experiment.isc", "utf-8", "UTF-8"),
    "unknown": (launch_file(colour='"red"'), "experiment.isc:7", "no key 'colour'", "isc_project_id, exp"),
    "table": (append("experiment.isc", "[env]\nA = 1\n"), "experiment.isc:7", "no key 'env'", "It has"),
    "mistyped": (launch_file(gpu="8"), "experiment.isc:7", "no key 'gpu'", "Did you mean gpus?"),
    "capitals": (launch_file(Compute_Mode='"x"'), "experiment.isc:7", "no key", "mean compute_mode?"),
    **{
        f"no {key.name}": (launch_file(**{key.name: None}), "experiment.isc", f"{key.name} is missing", "Add")
        for key in KEYS
        if key.required
    },
    "gpus in quotes": (launch_file(gpus='"8"'), "experiment.isc:3", "wrong type", "whole number"),
    "gpus true": (launch_file(gpus="true"), "experiment.isc:3", "wrong type", "whole number"),
    "name a number": (launch_file(experiment_name="7"), "experiment.isc:2", "wrong type", "string"),
    "dataset no list": (
        launch_file(dataset_id_list='"uds-one"'),
        "experiment.isc:5",
        "wrong type",
        "list of",
    ),
    "list of numbers": (launch_file(dataset_id_list="[1]"), "experiment.isc:5", "wrong type", "list of"),
    "zero gpus": (launch_file(gpus="0"), "experiment.isc:3", "0 is no possible number", "1 to 72"),
    "gpus": (launch_file(gpus="73"), "experiment.isc:3", "73 is no possible", "1 to 72"),
    "id in blanks": (
        launch_file(isc_project_id='"prj-a-261124 "'),
        "experiment.isc:1",
        "white space",
        "Delete",
    ),
    "data in blanks": (
        launch_file(dataset_id_list='["uds-one", " uds-two"]'),
        "experiment.isc:5",
        "' uds-t",
        "De",
    ),
    **{
        f"{name}, {text}": (
            launch_file(**{name: f'["{text}"]'}),
            "experiment.isc:",
            "is no id: it has",
            "no path",
        )
        for name in ("dataset_id_list", "input_artifact_id_list")
        for text in ("/data/uds-one", "uds-one,uds-two", "uds one", "'uds-one'", "uds\u200b-one")
    },
    "mode": (
        launch_file(compute_mode='"fast"'),
        "experiment.isc:4",
        "no mode 'fast'",
        "cycle, interruptible",
    ),
    "blank name": (launch_file(experiment_name='" "'), "experiment.isc:2", "no name", "Give it one"),
    "cycles": (launch_file(max_rapid_cycles="0"), "experiment.isc:7", "0 is no possible", "1 or more"),
    "another file": (write("second.isc", "gpus = 4\n"), "second.isc", "command is missing", "Add it"),
}
FILES = {
    **{f"no {name}": (delete(name), name, "missing", purpose) for name, purpose in EXPECTED.items()},
    "no bash": (append(LAUNCH, "if true; then\n"), LAUNCH, "bash cannot read it (line", "Fix that"),
    "Windows": (write(LAUNCH, "true\r\n"), LAUNCH, "Windows line ends", "autocrlf"),
    "syntax": (write("train.py", "x = 1\nif x\n"), "train.py:2", "Python cannot read", "Fix this line"),
    "too deep": (write("train.py", "-" * 200_000 + "1"), "train.py", "nested too deep", "no deeper"),
    "pipe": (lambda p: pipe(p / "train.py"), "train.py", "missing", "the training"),
    "version": (
        replace(NEEDED, '"torch==.*"', '"torch==1.0"'),
        NEEDED + ":",
        "torch is 1.0 here",
        "make lock",
    ),
    "new requirement": (require("Left_Pad"), NEEDED + ":", "Left_Pad is not in", "make lock"),
    "former": (
        write("requirements.in", "h5py\n"),
        "requirements.in",
        "no longer read",
        "into dependencies in",
    ),
    "uv.lock": (uv_lock(rich="1.0", xxhash="1.0"), LOCK, "but 1.0 in uv.lock, and 1 more", "make lock"),
    "not in uv.lock": (uv_lock(rich=None), LOCK, "here, but missing in uv.lock", "make lock"),
    "uv.lock, garbage": (write("uv.lock", "%%\n"), "uv.lock", "names no package", "make lock"),
    "uv.lock, empty": (write("uv.lock", ""), "uv.lock", "names no package", "or delete it"),
    "uv.lock, no text": (lambda p: (p / "uv.lock").write_bytes(b"\xff"), "uv.lock", "names no", "make lock"),
    "lock, garbage": (write(LOCK, "%%\n--no-index\n"), LOCK, "names no requirement", "make lock"),
    "no TOML": (write(NEEDED, "<<<<\n"), NEEDED, "cannot be read", "it must be TOML"),
    "another encoding": (lambda p: (p / NEEDED).write_bytes(b"\xff"), NEEDED, "cannot be read", "UTF-8"),
    "no table": (write(NEEDED, "project = 1\n"), NEEDED, "has no [project]", "with name and"),
    "no name": (replace(NEEDED, "^name = .*", ""), NEEDED, "does not name the project", "name ="),
    "no needs": (
        replace(NEEDED, "^dependencies = ", "needs = "),
        NEEDED,
        "does not say what the project needs",
        "dependencies =",
    ),
    "no hash": (append(LOCK, "left-pad==1.0\n"), LOCK, "no hash", "make lock"),
    "no version": (append(LOCK, "left-pad --hash=sha256:0\n"), LOCK, "no exact version", "make lock"),
    "branch": (replace(COMMIT, "@[0-9a-f]{40}", "@main"), COMMIT, "full commit", "40 digits"),
    "copied": (append("Dockerfile", "COPY nothing /x\n"), "Dockerfile:", "no nothing to copy", "Make it"),
    "pattern": (append("Dockerfile", "COPY *.none /x\n"), "Dockerfile:", "no *.none to copy", "Make it"),
    "copied list": (
        append("Dockerfile", 'ADD ["no thing", "/x"]\n'),
        "Dockerfile:",
        "no no thing",
        "Make it",
    ),
    "copied argument": (append("Dockerfile", ARGUMENT), "Dockerfile:", "no nothing to copy", "Make it"),
}
WARNINGS = {
    "open id": (launch_file(isc_project_id='""'), "still open", "before you submit"),
    "odd id": (launch_file(isc_project_id='"my project"'), "'my project'", "prj-<words>-YYMMDD"),
    "cycles": (launch_file(compute_mode='"burst"', max_rapid_cycles="3"), "no cycles to count", "Delete"),
    "gpus": (
        launch_file(gpus="17"),
        "17 GPUs in cycle mode may be",
        "documentation allows 72 (https://docs.",
    ),
    "gpus, no mode": (launch_file(gpus="72", compute_mode=None), "72 GPUs in cycle mode", "July 2025"),
    "default name": (
        launch_file(experiment_name='"ISC Experiment"'),
        "'ISC Experiment' says nothing",
        "tried",
    ),
    "test": (launch_file(experiment_name='"test_2"'), "'test_2' says nothing", "Name what is tried"),
    "one letter": (launch_file(experiment_name='"aaa"'), "'aaa' says nothing", "Name what is tried"),
    "shapes": (launch_file(burst_shape_priority_list='["a"]'), "cycle mode has no shapes", "burst"),
    "half a name": (launch_file(experiment_name='"deepseek-<model>"'), "is a placeholder", "belongs there"),
    **{
        f"dead {name}": (launch_file(**{name: '"x"'}), f"no longer has the key {name}", hint)
        for name, hint in DEAD_KEYS.items()
    },
}
ACCEPTED = {
    "as it is": lambda project: None,
    "no mode": launch_file(compute_mode=None),
    "burst": launch_file(compute_mode='"burst"', gpus="72"),
    "old id": launch_file(isc_project_id='"01234567-89ab-cdef-0123-456789abcdef"'),
    "cycles": launch_file(max_rapid_cycles="3"),
    "no dataset": command(COMMAND, dataset_id_list=None),
    "lines, as the ISC joins them": launch_file(command=f"'''\n{COMMAND}\n--dataset-id uds-one'''"),
    "cloned under another name": replace("pyproject.toml", "^name = .*", 'name = "other"'),
    "credentials": write("credentials.isc", "key = 1\n"),
    "other parser": both(command(COMMAND, dataset_id_list=None), write("train.py", "import sys\n")),
    "glob": append("Dockerfile", "COPY req*.txt /x\nCOPY --from=other /none /x\nADD https://a.b/c /x\n"),
    "told by a tool of its own": both(
        replace(NEEDED, "^dependencies = ", "needs = "),
        replace(NEEDED, "^version = .*", 'version = "1"\ndynamic = ["dependencies"]'),
    ),
    "condition": require("nowhere==1; sys_platform == 'plan9'"),
    "uv.lock, with more for other Pythons": both(uv_lock(), append("uv.lock", package("rich", "0.1"))),
}


@pytest.mark.parametrize(("plant", "where", "what", "hint"), LAUNCH_FILE.values(), ids=LAUNCH_FILE)
def test_a_bad_launch_file(project: Path, plant: Break, where: str, what: str, hint: str) -> None:
    plant(project)
    assert_found(check(project), "error", where, what, hint)


@pytest.mark.parametrize(("plant", "where", "what", "hint"), FILES.values(), ids=FILES)
def test_a_bad_file(project: Path, plant: Break, where: str, what: str, hint: str) -> None:
    plant(project)
    assert_found(check(project), "error", where, what, hint)


@pytest.mark.parametrize(("plant", "what", "hint"), WARNINGS.values(), ids=WARNINGS)
def test_what_a_person_has_to_judge(project: Path, plant: Break, what: str, hint: str) -> None:
    plant(project)
    findings = check(project)
    assert_found(findings, "warning", "experiment.isc:", what, hint)
    assert all(finding.severity == "warning" for finding in findings)
    assert run_check(project, as_json=False) == 0


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_accepted(project: Path, change: Break) -> None:
    change(project)
    assert check(project) == []


PLACEHOLDERS = {
    "isc_project_id": "<project-id>",
    "isc_project_id ": "your-project-id",
    "dataset_id_list": "<dataset id>",
    "dataset_id_list ": "dataset-id-0",
    "input_artifact_id_list": "<checkpoint-artifact>",
    "burst_shape_priority_list": "<shape>",
    "command": "bash <train.py-or-validation.py>",
    "isc_project_id  ": "$PROJECT_ID",
    "dataset_id_list  ": "{dataset_id}",
    "dataset_id_list   ": "[dataset]",
    "input_artifact_id_list ": "uds-xxx-artifact",
    "input_artifact_id_list  ": "INSERT_ID_HERE",
    "burst_shape_priority_list ": "change-me",
}


@pytest.mark.parametrize("key", PLACEHOLDERS)
def test_what_was_copied_and_not_filled_in(tmp_path: Path, key: str) -> None:
    name, text = key.strip(), json.dumps(PLACEHOLDERS[key])
    launch_file(**{name: f"[{text}]" if name.endswith("list") else text})(tmp_path)
    findings = check_launch_file(tmp_path / "experiment.isc", tmp_path, [HOME])
    assert_found(findings, "error", "experiment.isc:", f"in {name} is a placeholder", "Write what belongs")


HOSTILE = {
    "deep": "gpus = " + "[" * 100_000,
    "deep tables": "gpus = " + "{a=" * 5000,
    "a number of 9000 digits": "gpus = " + "9" * 9000,
    "a number in hexadecimal": f"gpus = 0x{'f' * 9000}\nmax_rapid_cycles = -0x{'f' * 9000}",
    "no end of keys": "".join(f"key{n} = 1\n" for n in range(50_000)),
    "a long key": f"{'k' * 500_000} = 1\n",
    "a long command": launch_command("true && " * 100_000),
    "lines without end": launch_command("x\n" * 60_000),
    "options without end": launch_command(f"{COMMAND} {' '.join(f'--epoch{n}' for n in range(10_000))}"),
    "escapes": 'experiment_name = "\\u001b]0;x\\u202e"\n"\\u001b[2J" = 1\ncompute_mode = "\\u001b[31m"\n',
    "escapes in the command": launch_command(f"{COMMAND} \x1b[31m"),
    "escapes in the text": "\x1b[2J",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_launch_files(tmp_path: Path, name: str) -> None:
    write("experiment.isc", HOSTILE[name])(tmp_path)
    began = time.monotonic()
    findings = check_launch_file(tmp_path / "experiment.isc", PROJECT, [HOME])
    assert time.monotonic() - began < 10
    assert 0 < len(findings) < 50
    assert all(str(finding).isprintable() and len(str(finding)) < 2000 for finding in findings)


def test_what_is_printed_moves_no_cursor(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a\x1b[2J.isc", HOSTILE["escapes"])(project)
    write("train.py", "x = '\x1b[2J\\d'\nif \x1b[2J\n")(project)
    require("\\u001b[2Jx==1", "l\u202eft==1")(project)
    for as_json in (False, True):
        assert run_check(project, as_json) == 1
        said = capsys.readouterr()
        assert said.err == ""
        assert said.out.replace("\n", "").isprintable()


def test_a_launch_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.isc")
    (tmp_path / "large.isc").write_bytes(b"#" * 10_000_001)
    (tmp_path / "folder.isc").mkdir()
    for name, reason in {"pipe": "no regular file", "large": "10000001 bytes", "folder": "regular"}.items():
        findings = check_launch_file(tmp_path / f"{name}.isc", tmp_path, [HOME])
        assert_found(findings, "error", f"{name}.isc", reason, "TOML")


def test_each_key_and_variable_has_a_source() -> None:
    sources = [key.source for key in KEYS] + [variable.source for variable in VARIABLES.values()]
    assert all(source.startswith("https://") for source in sources)
    assert "CRUD_ARTIFACT_PATH" in VARIABLES


def test_errors_are_found_together(project: Path) -> None:
    launch_file(gpus="0", compute_mode='"fast"', colour="1", command='"bash launch.sh"')(project)
    assert [finding.where for finding in check(project) if finding.severity == "error"] == [
        "experiment.isc:7",
        "experiment.isc:4",
        "experiment.isc:3",
        "experiment.isc:6",
    ]


def test_a_script_that_is_not_executable_is_no_obstacle(project: Path) -> None:
    """The command runs it with bash; an archive loses the bit."""
    (project / LAUNCH).chmod(0o644)
    assert_found(check(project), "warning", LAUNCH, "not executable", "chmod +x launch.sh")
    assert run_check(project, as_json=False) == 0


def test_toml_needs_a_parser(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tomllib", "tomli", "pip._vendor.tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    assert_found(check(project), "warning", "experiment.isc", "neither tomllib nor tomli", "Install tomli")


def test_the_report_is_a_line_each_and_a_verdict(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(project, as_json=False) == 0
    assert re.fullmatch(
        r"Ready to submit. The image takes \d+ files of it, [\d.]+ [kM]B.\n", capsys.readouterr().out
    )
    launch_file(gpus="0", isc_project_id='""')(project)
    assert run_check(project, as_json=False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WARNING: experiment.isc:1: The id of the ISC project is still open. Put")
    assert lines[1] == "ERROR: experiment.isc:3: 0 is no possible number of GPUs. Use 1 to 72."
    assert lines[2].startswith("Not ready to submit: 1 error, 1 warning. The image takes ")


def test_the_report_for_machines(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch_file(gpus="0")(project)
    assert run_check(project, as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["fit"]
    assert [Finding(**finding) for finding in report["findings"]] == check(project)


def test_the_check_imports_nothing_heavy(project: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from isc_runtime.submission.project import check\n"
        "check(Path(sys.argv[1]))\n"
        "assert not {'torch', 'numpy', 'train', 'model', 'data'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(project)], cwd=PROJECT, check=True)


def assert_found(findings: list[Finding], severity: str, where: str, what: str, hint: str) -> None:
    lines = [str(finding) for finding in findings]
    assert any(
        finding.severity == severity
        and finding.where.startswith(where)
        and what in finding.what
        and hint in finding.hint
        for finding in findings
    ), "\n".join(lines)
    assert not any("\n" in line for line in lines)
