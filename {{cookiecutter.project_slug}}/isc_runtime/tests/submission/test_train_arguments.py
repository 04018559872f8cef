"""The parser of train.py is asked, whatever train.py looks like, and nothing else of it is run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from isc_runtime.submission.command import train_arguments
from isc_runtime.submission.command.train_arguments import (
    Answer,
    ask_parser,
    check_arguments,
    options_of_train,
)

PROJECT = Path(__file__).resolve().parents[3]
IMPORT = "import argparse\nimport torch\n"
PARSER = """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, choices=SIZES, default=1)
    parser.add_argument("--out", type=argparse.FileType("w"))
"""
# what people write: the function that parses, and whatever stands around it
MADE = f"def parse():{PARSER}    return parser.parse_args()\n"
SHAPES = {
    "returns the arguments": "SIZES = (1, 2)\n" + MADE.replace("()", "(line=None)", 1),
    "is given the command line": "SIZES = [1, 2]\n" + MADE.replace("()", "(line)"),
    "returns the parser": "SIZES: list = [1, 2]\n" + MADE.replace("parser.parse_args()", "parser"),
    "takes what is known": "SIZES = {1, 2}\n" + MADE.replace("parse_args()", "parse_known_args()[0].size"),
    "says what it returns": "SIZES = (1, 2)\n" + MADE.replace("():", "() -> torch.Tensor:", 1),
    "in a with": "with open('x'):\n    SIZES = (1, 2)\n" + MADE,
    "of a module beside it": "from sizes import SIZES\n" + MADE,
    "parses twice": "SIZES = (1, 2)\n"
    + MADE.replace("return parser", "it = parser")
    + "    parser.set_defaults(size=object(), out=object())\n    parser.parse_args([])\n    return it\n",
    "prints": "SIZES = (1, 2)\n" + MADE.replace("    return", "    print('x')\n    return"),
    "with a check of its own": "SIZES = (1, 2, 9)\n"
    + MADE.replace("return parser.parse_args()", "it = parser.parse_args()")
    + "    if it.size > 2:\n        parser.error('invalid choice: 9')\n    return it\n",
}
# and what cannot be asked
UNCLEAR = {
    "import argparse\nparser = argparse.ArgumentParser()\n": "no function",
    f"SIZES = torch.ones(2)\n{MADE}": "No module named 'torch'",
    f"SIZES = 1 / 0\n{MADE}": "ZeroDivisionError",
    f"SIZES = [1]\ndef parse(a, b):{PARSER}    return parser.parse_args()\n": "needs arguments of its own",
    f"SIZES = [1]\ndef parse(*, a):{PARSER}    return parser.parse_args()\n": "needs arguments of its own",
    "def parse():\n    while True: pass\n    argparse.ArgumentParser()\n": "longer than 1 seconds",
    "import os\ndef parse():\n    os._exit(3)\n    argparse.ArgumentParser()\n": "no answer",
    "def parse():\n    if False:\n        argparse.ArgumentParser()\n": "was not called",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("SIZES = (1, 2)\n")
    return tmp_path


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_parser_judges(root: Path, shape: str) -> None:
    (root / "train.py").write_text(f"{IMPORT}{shape}raise SystemExit('run')\n")
    (root / "x").touch()
    good = ask_parser(root, ["--si", "2", "--out", "made"])
    assert good.unclear == good.refusal == ""
    assert good.values == {"size": "2", "out": "made"}
    assert "--size" in good.options
    assert not (root / "made").exists()
    assert "invalid choice: " in ask_parser(root, ["--size", "9"]).refusal
    assert "expected one argument" in ask_parser(root, ["--size"]).refusal
    assert ask_parser(root, ["--help"]).only_helps


@pytest.mark.parametrize(("text", "reason"), UNCLEAR.items(), ids=UNCLEAR.values())
def test_what_cannot_be_asked_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.setattr(train_arguments, "LIMIT", 1)
    (root / "train.py").write_text(f"{IMPORT}{text}")
    assert reason in ask_parser(root, ["--size", "2"]).unclear
    finding, *others = check_arguments(root, ["--size", "2"], [], "x.isc:1")
    assert (finding.severity, finding.where, others) == ("warning", "x.isc:1", [])
    assert finding.what.startswith("The arguments of train.py were not checked: ")
    assert reason in finding.what
    assert "Rehearse" in finding.hint
    assert list(check_arguments(root, [], [], "x.isc:1")) == []


def test_ours_needs_no_torch_and_little_time() -> None:
    began = time.monotonic()
    answer = ask_parser(PROJECT, ["--epochs", "3", "--dataset-id", "uds-one"])
    assert time.monotonic() - began < 1.5
    assert answer.unclear == answer.refusal == ""
    assert answer.values["epochs"] == "3"
    assert answer.values["dataset_id"] == "uds-one"


def test_an_abbreviation_that_is_taken_is_understood(root: Path) -> None:
    text = 'p = argparse.ArgumentParser()\n    p.add_argument("--fresh", action="store_true")\n'
    (root / "train.py").write_text(f"{IMPORT}def parse():\n    {text}    return p.parse_args()\n")
    (finding,) = check_arguments(root, ["--fre"], [], "x")
    assert "--fresh would start over" in finding.what


def test_what_only_the_node_knows_is_not_refused() -> None:
    for words in (["--epochs", "$EPOCHS"], ["--epochs=$EPOCHS"], ["$ARGUMENTS"], ["--epochs", "/data/n"]):
        assert list(check_arguments(PROJECT, words, [], "x")) == [], words
    assert len(list(check_arguments(PROJECT, ["/data/stray"], [], "x"))) == 1


def test_variables_of_the_isc_are_set(root: Path) -> None:
    text = 'import os\ndef parse():\n    p = argparse.ArgumentParser()\n    p.add_argument("--o", default='
    (root / "train.py").write_text(f'{IMPORT}{text}os.environ["CRUD_ARTIFACT_PATH"])\n    p.parse_args()\n')
    assert ask_parser(root, []) == Answer(options=["--help", "--o", "-h"], values={"o": "/mnt/crud"})


def test_without_a_train_py_nothing_more_is_said(tmp_path: Path) -> None:
    assert list(check_arguments(tmp_path, ["--size"], ["uds-one"], "x")) == []


@pytest.mark.parametrize("word", ["wandb", "mlflow"])
def test_a_tracker_that_the_image_would_not_have_is_named(word: str) -> None:
    (finding,) = check_arguments(PROJECT, ["--tracker", "tensorboard", word], [], "x")
    assert f"--tracker {word} needs {word}" in finding.what
    assert finding.what.endswith("which is not in requirements.lock")
    assert finding.hint == "Put it into dependencies in pyproject.toml, and run: make lock"
    for mine in ("train:Mine", "mine:wandb", "wandb:Mine"):
        assert list(check_arguments(PROJECT, ["--tracker", "tensorboard", mine], [], "x")) == []


def test_a_config_file_in_the_command_is_judged_as_its_options_are(tmp_path: Path) -> None:
    for name in ("train.py", "data.py", "model.py"):
        shutil.copy(PROJECT / name, tmp_path)
    ignored = shutil.ignore_patterns("tests", "__pycache__")
    shutil.copytree(PROJECT / "isc_runtime", tmp_path / "isc_runtime", ignore=ignored)
    (tmp_path / "configs").mkdir()

    def said(text: str, name: str = "configs/a.toml") -> str:
        (tmp_path / "configs" / "a.toml").write_text(text)
        findings = check_arguments(tmp_path, ["--config", name, "--seed", "1"], ["uds-x"], "experiment.isc:1")
        return "\n".join(map(str, findings))

    assert said("dataset-id = 'uds-x'\nepochs = 3") == ""
    for home in ("/root/any-project", "~/any-project", "~root/any-project", "/root/team/any-project", "."):
        assert said("dataset-id = 'uds-x'", f"{home}/configs/a.toml") == ""
    assert "There is no config file /root/any-project/b.toml" in said("", "/root/any-project/b.toml")
    assert "configs/a.toml: argument --epochs: '0' is not" in said("dataset-id = 'uds-x'\nepochs = 0")
    assert "no option epoch; did you mean epochs?" in said("epoch = 2")
    assert "The dataset uds-y is not in dataset_id_list" in said("dataset-id = 'uds-y'")
    assert "--fresh would start over" in said("dataset-id = 'uds-x'\nfresh = true")
    assert "There is no config file configs/b.toml. Put it into the project" in said("", "configs/b.toml")
    assert said("", "$HOME/b.toml") != "", "what only the node knows is left to it; datasets are not"


def test_the_options_that_are_read_are_those_of_the_parser() -> None:
    """Wherever in the runtime they are added: a rehearsal asks whether there is --log-steps."""
    asked = ask_parser(PROJECT, []).options
    assert len(asked) > 40
    assert options_of_train(PROJECT) - {"-h"} == set(asked) - {"-h"}
