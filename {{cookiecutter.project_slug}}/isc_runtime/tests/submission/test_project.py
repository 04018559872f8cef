"""Each way in which a project can be unfit to submit is found, planted in a copy of this one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isc_runtime.submission.launch_file import DEAD_KEYS, KEYS
from isc_runtime.submission.project import EXPECTED, Finding, check, run_check
from isc_runtime.tests.processes import PROJECT

HOME = "/root/copied"
COMMAND = f"bash {HOME}/launch.sh"
LAUNCH, NEEDED, LOCK = "launch.sh", "requirements.in", "requirements.lock"
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
parser = argparse.ArgumentParser()
add = parser.add_argument_group("data").add_argument
add("--dataset-id"), add("--epochs", type=options.positive), add("--model")
options.add_checkpoint_options(parser)
"""
OWN = {"train.py": TRAIN, "model.py": 'MODELS = {"one": None, "other": None}\n', "data.py": ""}

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
    launch_file()(copy)
    return copy


def launch_file(**changes: str | None) -> Break:
    """Writes the good launch file, with other values; None leaves a key out."""
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    text = "".join(f"{name} = {value}\n" for name, value in values.items())
    return lambda project: write("experiment.isc", text)(project)


def command(text: str, **changes: str | None) -> Break:
    return launch_file(command=json.dumps(text), **changes)


def write(name: str, text: str) -> Break:
    def change(project: Path) -> None:
        (project / name).write_text(text, encoding="utf-8")

    return change


def append(name: str, text: str) -> Break:
    return lambda project: write(name, (project / name).read_text() + text)(project)


def replace(name: str, pattern: str, by: str) -> Break:
    def change(project: Path) -> None:
        text, count = re.subn(pattern, by, (project / name).read_text(), count=1, flags=re.MULTILINE)
        assert count, f"{name} holds no {pattern}"
        write(name, text)(project)

    return change


def both(one: Break, other: Break) -> Break:
    def change(project: Path) -> None:
        one(project)
        other(project)

    return change


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
        f"dead {name}": (
            launch_file(**{name: '"x"'}),
            "experiment.isc:7",
            f"no longer has the key {name}",
            hint,
        )
        for name, hint in DEAD_KEYS.items()
    },
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
    "gpus of mode": (launch_file(gpus="17"), "experiment.isc:3", "too many for cycle", "burst"),
    "gpus, no mode": (launch_file(gpus="17", compute_mode=None), "experiment.isc:3", "too many", "burst"),
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
COMMANDS = {
    "empty": (command(" "), "The command is empty", f"Write: bash {HOME}/launch.sh"),
    "lines": (command(f"cd {HOME}\nbash {HOME}/launch.sh"), "line break", "chain with &&"),
    "backslash": (command(f"{COMMAND} \\ --epochs 1"), "backslash", "chain with &&"),
    "open quote": (command(f"{COMMAND} 'x"), "No shell can read", "Close"),
    "relative script": (command("bash launch.sh --epochs 1"), "launch.sh is relative", f"write {HOME}"),
    "relative path": (
        command(f"source venv/bin/activate && {COMMAND}"),
        "venv/bin/activate",
        f"write {HOME}",
    ),
    "no file": (command(f"bash {HOME}/start/launch.sh"), f"no {HOME}/start/launch.sh", "Correct"),
    "no file there": (command(f"cd {HOME} && bash x/launch.sh"), f"no {HOME}/x/launch.sh", "Correct"),
    "elsewhere": (command("bash /root/no-such/launch.sh"), "/root/no-such/launch.sh is outside", HOME),
    "argument": (command(f"{COMMAND} --resume"), "no argument --resume", "train.py --help"),
    "mistyped argument": (command(f"{COMMAND} --epoch-s=3"), "no argument --epoch-s", "mean --epochs?"),
    "runtime argument": (command(f"{COMMAND} --save-stebs 3"), "no argument --save-stebs", "--save-steps?"),
    "dataset": (command(f"{COMMAND} --dataset-id uds-two"), "uds-two is not in dataset_id_list", '"uds-two"'),
    "dataset =": (command(f"{COMMAND} --dataset-id=uds-two"), "uds-two is not in dataset_id_list", "Put"),
    "no dataset": (command(f"{COMMAND} --dataset-id"), "--dataset-id has no value", "Write the id"),
}
FILES = {
    **{f"no {name}": (delete(name), name, "missing", purpose) for name, purpose in EXPECTED.items()},
    "not executable": (lambda p: (p / LAUNCH).chmod(0o644), LAUNCH, "not executable", "chmod +x launch.sh"),
    "Windows": (write(LAUNCH, "true\r\n"), LAUNCH, "Windows line ends", "autocrlf"),
    "syntax": (write("train.py", "x = 1\nif x\n"), "train.py:2", "Python cannot read", "Mend this line"),
    "version": (replace(NEEDED, "^torch==.*", "torch==1.0"), NEEDED, "torch is 1.0 here", "make lock"),
    "new requirement": (append(NEEDED, "Left_Pad\n"), NEEDED, "Left_Pad is not in", "make lock"),
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
    "own start": (command("torchrun --nnodes 1 /opt/other.py"), "not hand over to launch.sh", f"bash {HOME}"),
    "pipe": (command(f"{COMMAND} --dataset-id uds-one | tee /tmp/log"), "'|'", "Chain with &&"),
    "model": (
        command(f"{COMMAND} --dataset-id uds-one --model=mine"),
        "MODELS in model.py does not name 'mine'",
        "add yours to MODELS",
    ),
    "unused dataset": (command(COMMAND), "none of the datasets", "Add --dataset-id uds-one"),
}
ACCEPTED = {
    "as it is": lambda project: None,
    "no mode": launch_file(compute_mode=None),
    "burst": launch_file(compute_mode='"burst"', gpus="72"),
    "old id": launch_file(isc_project_id='"01234567-89ab-cdef-0123-456789abcdef"'),
    "cycles": launch_file(max_rapid_cycles="3"),
    "no dataset": command(COMMAND, dataset_id_list=None),
    "activated": command(
        f"source /opt/venv/bin/activate && {COMMAND} --dataset-id=uds-one --save-steps auto"
    ),
    "in its directory": command(f"cd {HOME} && A=1 bash ./launch.sh --dataset-id uds-one"),
    "models that are not written out": both(
        command(f"{COMMAND} --dataset-id uds-one --model mine"), append("model.py", "MODELS = {**MODELS}\n")
    ),
    "abbreviated": command(f"{COMMAND} --dataset-i uds-one", dataset_id_list=None),
    "cloned under another name": replace("pyproject.toml", "^name = .*", 'name = "other"'),
    "name unknown": write("pyproject.toml", ""),
    "credentials": write("credentials.isc", "key = 1\n"),
    "other parser": write("train.py", "import sys\n"),
    "glob": append("Dockerfile", "COPY req*.in /x\nCOPY --from=other /none /x\nADD https://a.b/c /x\n"),
    "condition": append("requirements.in", 'nowhere==1; sys_platform == "plan9"\n'),
}


@pytest.mark.parametrize(("plant", "where", "what", "hint"), LAUNCH_FILE.values(), ids=LAUNCH_FILE)
def test_a_bad_launch_file(project: Path, plant: Break, where: str, what: str, hint: str) -> None:
    plant(project)
    assert_found(check(project), "error", where, what, hint)


@pytest.mark.parametrize(("plant", "what", "hint"), COMMANDS.values(), ids=COMMANDS)
def test_a_bad_command(project: Path, plant: Break, what: str, hint: str) -> None:
    plant(project)
    assert_found(check(project), "error", "experiment.isc:6", what, hint)


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


def test_errors_are_found_together(project: Path) -> None:
    launch_file(gpus="0", compute_mode='"fast"', colour="1", command='"bash launch.sh"')(project)
    assert [finding.where for finding in check(project) if finding.severity == "error"] == [
        "experiment.isc:7",
        "experiment.isc:4",
        "experiment.isc:3",
        "experiment.isc:6",
    ]


def test_toml_needs_a_parser(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    assert_found(check(project), "warning", "experiment.isc", "neither tomllib nor tomli", "Install tomli")


def test_the_report_is_a_line_each_and_a_verdict(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(project, as_json=False) == 0
    assert re.fullmatch(r"Fit to submit. The image takes \d+ files of it, \d+ kB.\n", capsys.readouterr().out)
    launch_file(gpus="0", isc_project_id='""')(project)
    assert run_check(project, as_json=False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WARNING: experiment.isc:1: The id of the ISC project is still open. Put")
    assert lines[1] == "ERROR: experiment.isc:3: 0 is no possible number of GPUs. Use 1 to 72."
    assert lines[2].startswith("Not fit to submit: 1 error, 1 warning. The image takes ")


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
