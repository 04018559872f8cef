"""A function that parses and then trains is asked for its arguments, and does not train."""

from __future__ import annotations

from pathlib import Path

import pytest

from isc_runtime.submission.command.train_arguments import ask_parser

TRAINS = """
import argparse
from pathlib import Path

def train():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    args = parser.parse_args()
    loss = args.lr
    Path(__file__).with_name("trained").touch()
    return loss

train()
"""


@pytest.mark.parametrize("end", ["    return loss\n", ""])
def test_a_check_does_not_train(tmp_path: Path, end: str) -> None:
    (tmp_path / "train.py").write_text(TRAINS.replace("    return loss\n", end))
    assert ask_parser(tmp_path, ["--lr", "0.1"]).values == {"lr": "0.1"}
    assert "unrecognized arguments: more" in ask_parser(tmp_path, ["more"]).refusal
    assert not (tmp_path / "trained").exists()


def test_what_is_left_to_others_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINS.replace("parser.parse_args()", "parser.parse_known_args()[0]"))
    answer = ask_parser(tmp_path, ["--lr", "0.1", "more"])
    assert (answer.refusal, answer.unclear, answer.values) == ("", "", {"lr": "0.1"})
    assert not (tmp_path / "trained").exists()
