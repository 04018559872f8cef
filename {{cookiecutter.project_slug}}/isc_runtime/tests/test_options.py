"""The runtime's options: what they accept, what they refuse, and that none is lost on the way."""

from __future__ import annotations

import argparse

import pytest

from isc_runtime import options
from isc_runtime.errors import ExitCode


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    for name in ("--count", "--more", "--share", "--rate", "--seed"):
        kind = {"--count": options.positive, "--more": options.not_negative, "--seed": options.seed}
        floats = {"--share": options.not_negative_float, "--rate": options.positive_float}
        made.add_argument(name, type={**kind, **floats}[name])
    options.add_parallel_options(made)
    options.add_checkpoint_options(made)
    options.add_distributed_options(made)
    return made


def test_without_options_the_defaults_hold() -> None:
    arguments = parser().parse_args([])
    assert options.CheckpointOptions.of(arguments) == options.CheckpointOptions()
    assert options.ParallelOptions.of(arguments) == options.ParallelOptions()


def test_what_is_given_arrives() -> None:
    given = "--save-steps 7 --save-seconds 8 --mtbf-seconds 60 --anchor-saves 2 --keep-checkpoints 0"
    more = "--max-failed-saves 1 --save-timeout 9.5 --sync-save --fresh --parallelism fsdp "
    more += "--checkpoint-activations --compile --find-unused-parameters --max-fruitless-starts 2"
    arguments = parser().parse_args([*given.split(), *more.split()])
    assert options.CheckpointOptions.of(arguments) == options.CheckpointOptions(
        7, 8.0, 60.0, 2, 0, 1, 9.5, sync_save=True, fresh=True, max_fruitless_starts=2
    )
    assert options.ParallelOptions.of(arguments) == options.ParallelOptions("fsdp", True, True, True)
    assert (
        options.CheckpointOptions.of(parser().parse_args(["--save-every", "auto"])).save_steps == options.AUTO
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--count", text) for text in ("0", "-1", "1.5", "", "two", "٣")),
        *(("--more", text) for text in ("-1", "1e3")),
        *(("--rate", text) for text in ("0", "-1", "nan", "inf", "x")),
        *(("--share", text) for text in ("-0.1", "nan")),
        *(("--seed", text) for text in ("-1", str(2**32))),
        *(("--save-steps", text) for text in ("0", "often")),
        *(("--timeout", text) for text in ("0", "-1")),
        ("--parallelism", "none"),
    ],
)
def test_a_bad_value_is_refused_with_its_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args([f"{option}={value}"])
    assert stop.value.code == ExitCode.USAGE
    said = capsys.readouterr().err.splitlines()[-1]
    assert option in said
    assert repr(value) in said


@pytest.mark.parametrize(
    ("option", "value"),
    [("--more", "0"), ("--share", "0"), ("--share", "0.5"), ("--rate", "1e-9"), ("--seed", str(2**32 - 1))],
)
def test_the_edges_are_accepted(option: str, value: str) -> None:
    assert getattr(parser().parse_args([option, value]), option[2:]) == float(value)


def test_there_is_no_option_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--resume"])
    assert "--resume" in capsys.readouterr().err
    assert "goes on from its newest good checkpoint by itself" in " ".join(parser().format_help().split())


def test_help_names_each_default_once_and_none_where_there_is_none() -> None:
    made = options.make_parser("Trains.")
    options.add_runtime_options(made)
    text = " ".join(made.format_help().split())
    assert "default: None" not in text
    assert ") (default" not in text
    assert "however slow the batches are (default: a third of --mtbf-seconds)" in text
    assert "stop after so many failed saves in a row (default: 3)" in text
