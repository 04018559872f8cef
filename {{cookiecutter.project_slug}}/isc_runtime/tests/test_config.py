"""Options from a file are options: checked, counted as asked for, and the command line wins over them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from isc_runtime import __main__, config, options


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])


def parser() -> argparse.ArgumentParser:
    made = options.make_parser("A program.")
    made.add_argument("--epochs", type=options.positive, default=15)
    made.add_argument("--learning-rate", type=options.positive_float, default=0.1)
    made.add_argument("--offset", type=float)
    made.add_argument("--no-amp", action="store_true")
    made.add_argument("--exact", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--sizes", type=options.positive, nargs="+")
    options.add_runtime_options(made)
    return made


def parse(text: str, *words: str, name: str = "a.toml") -> argparse.Namespace:
    Path(name).write_text(text)
    return options.parse(parser(), [*(["--config", name] if name == "a.toml" else []), *words])


def test_what_a_file_says_is_asked_for() -> None:
    text = 'epochs = 2\nlearning_rate = 1e-3\nno-amp = true\noffset = -1.5\nsave-steps = "auto"\n'
    arguments = parse(text + "sizes = [1, 2]\nexact = false\n")
    assert (arguments.epochs, arguments.learning_rate, arguments.offset) == (2, 1e-3, -1.5)
    assert (arguments.no_amp, arguments.exact, arguments.sizes) == (True, False, [1, 2])
    assert arguments.given == {"epochs", "learning_rate", "no_amp", "offset", "save_steps", "sizes", "exact"}
    assert "config" not in vars(arguments), "another name of the file is no other setting"


def test_the_command_line_wins() -> None:
    arguments = parse("epochs = 2\nno-amp = false\n", "--epochs", "3")
    assert (arguments.epochs, arguments.no_amp) == (3, False)


def test_the_file_beside_the_program_is_read_unless_another_one_is_named() -> None:
    assert parse("epochs = 2\n", name="train.toml").epochs == 2
    assert parse("learning-rate = 1.0\n").epochs == 15


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 0", "a.toml: argument --epochs: '0' is not a whole number of at least 1"),
        ("epoch = 2", "a.toml: there is no option epoch; did you mean epochs?"),
        ("zzz = 2", "a.toml: there is no option zzz"),
        ("config = 'b.toml'", "a.toml: there is no option config"),
        ("no-amp = 3", "a.toml: argument --no-amp: ignored explicit argument '3'"),
        ("epochs = true", "a.toml: argument --epochs: expected one argument"),
        ("epochs = false", "a.toml: epochs takes a value, not false"),
        ("save-steps = 3\nsave_steps = 4", "a.toml: save-steps is there twice"),
        ('config_ = "x"\n', "a.toml: there is no option config-"),
        ('tracker = "a\\u0000b"', "a.toml: tracker holds a zero byte"),
        ("\ufeffepochs = 2", "a.toml cannot be read (it begins with a byte order mark; save it as UTF-8"),
        ("[training]\nepochs = 2", "a.toml: training must be a string, a number, true or false"),
        ("epochs = [", "a.toml cannot be read"),
        (f"seed = 0x{'f' * 5000}", "a.toml cannot be read (seed is an integer of 20000 bits"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(
    text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(text)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_train_toml_that_cannot_be_read_is_not_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    """A link to a disk that is not mounted, say: the training would run with other options than are meant."""
    Path("train.toml").symlink_to("gone.toml")
    with pytest.raises(SystemExit):
        options.parse(parser(), [])
    assert "train.toml cannot be read" in capsys.readouterr().err
    Path("train.toml").unlink()
    Path("train.toml").mkdir()
    with pytest.raises(SystemExit):
        options.parse(parser(), [])
    assert "it is no regular file" in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(parser(), ["--config=none.toml"])
    assert "none.toml cannot be read" in capsys.readouterr().err


def test_what_is_printed_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("epochs = 2\nsizes = [3]\n", "--print-config", "--learning-rate", "0.5")
    assert not ended.value.code
    text = capsys.readouterr().out
    assert {"epochs = 2", "learning-rate = 0.5", "sizes = [3]", 'save-steps = "auto"', "# offset ="} <= set(
        text.splitlines()
    )
    arguments = parse(text)
    assert (arguments.epochs, arguments.learning_rate, arguments.save_steps) == (2, 0.5, options.AUTO)


def test_a_node_is_checked_with_the_same_options() -> None:
    Path("b.toml").write_text('dataset-id = "uds-x"\nlocal = true\n')
    words = __main__._with_config(["preflight", "--config", "b.toml", "--device", "cpu"])
    assert words == ["preflight", "--dataset-id=uds-x", "--local", "--config", "b.toml", "--device", "cpu"]
    assert __main__._with_config(["preflight", "--config=none"]) == ["preflight", "--config=none"]
    assert config.config_file(["--epochs", "1"], Path("train.toml")) is None


def test_who_starts_a_training_knows_its_limits(tmp_path: Path) -> None:
    """From its command line or its config file, among words of others; what is wrong the training says."""
    script = str(tmp_path / "train.py")

    def limit(*words: str) -> float:
        return config.seconds_in(["--nnodes", "2", script, *words], "--save-timeout", 1800.0)

    assert limit("--epochs", "3") == limit("--save-timeout", "soon") == limit("--save-timeout") == 1800
    assert limit("--epochs", "3", "--save-timeout", "7200") == 7200
    assert limit("--save-timeout=45.5", "--other") == 45.5
    (tmp_path / "train.toml").write_text("save-timeout = 90\nepochs = 3\n")
    assert limit("--epochs", "3") == 90
    assert limit("--save-timeout", "7") == 7
    named = tmp_path / "named.toml"
    named.write_text("save_timeout = 11.5\n")
    assert limit("--config", str(named)) == 11.5
    named.write_text("save-timeout = [")
    assert limit("--config", str(named)) == 1800
