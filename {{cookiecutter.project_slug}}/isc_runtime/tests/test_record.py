"""Each start says what it is, and leaves it beside its curves."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isc_runtime import record
from isc_runtime.environment import Environment
from isc_runtime.record import RECORD, add_start, recorded
from isc_runtime.submission.contents import version_control


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One with a commit, a lock and a launch file."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "train.py").write_text("pass\n")
    (root / "Dockerfile").write_text("FROM debian\nCOPY . .\n")
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["torch"]\n')
    (root / "requirements.lock").write_text("torch==1\n")
    (root / "experiment.isc").write_text('command = "bash /root/x/launch.sh"\n')
    (root / ".cruft.json").write_text('{"context": {"cookiecutter": {"gpus": "8", "_template": "x"}}}')
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for line in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "x"]):
        version_control.ask_git(root, *line)
    return root


def start(root: Path, logs: Path, step: int, **options: Any) -> None:
    logs.mkdir(exist_ok=True)
    arguments = argparse.Namespace(epochs=3, data_root=Path("/data"), model=None, **options)
    environment = Environment(lossy_artifact_path=str(logs), hostname="here")
    with recorded(arguments, environment, root) as scalars:
        scalars.begin(step)
        scalars.add("training/loss", 1.0, step + 1)


def test_a_start_is_said_and_kept(tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    start(project, tmp_path / "logs", 0, learning_rate=0.5)
    commit = (version_control.ask_git(project, "rev-parse", "HEAD") or "").strip()
    assert len(commit) == 40
    for words in (
        *(f"[RUN] commit {commit}; files ", ", lock ", "[RUN] versions: python 3.", "torch 2."),
        *("experiment.isc: bash /root/x/launch.sh", "answers: gpus=8", "learning_rate=0.5"),
    ):
        assert words in caplog.text
    (entry,) = json.loads((tmp_path / "logs" / RECORD).read_text())["starts"]
    assert (entry["commit"], entry["is_dirty"], entry["step"], entry["ranks"]) == (commit, False, 0, 1)
    assert entry["options"] == {"epochs": 3, "data_root": "/data", "model": None, "learning_rate": 0.5}
    assert entry["answers"] == {"gpus": "8"}
    assert len(entry["lock"]) == 64

    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [1]
    text = events.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert commit in text
    hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"learning_rate" in hparams
    assert commit.encode() in hparams


def test_each_start_is_added_and_changes_are_seen(
    tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    start(project, tmp_path / "logs", 0)
    (project / "train.py").write_text("changed\n")
    start(project, tmp_path / "logs", 40)
    content = json.loads((tmp_path / "logs" / RECORD).read_text())
    first, second = content["starts"]
    assert content["count"] == 2
    assert (first["step"], second["step"]) == (0, 40)
    assert (first["is_dirty"], second["is_dirty"]) == (False, True)
    assert first["files"] != second["files"]
    assert ", with changes; files" in caplog.text


def test_without_a_tracker_the_record_has_a_folder_all_the_same(tmp_path: Path) -> None:
    add_start(tmp_path / "runs" / RECORD, {"step": 1})
    assert (tmp_path / "runs" / RECORD).exists()


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", str(2**70)])
def test_an_option_that_is_no_number_of_64_bits_ends_no_record(
    tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    """JSON has no words for the first ones, and what has them is not read again."""
    for step in (0, 40):
        start(project, tmp_path / "logs", step, clip=int(value) if value.isdecimal() else float(value))
    content = json.loads((tmp_path / "logs" / RECORD).read_text())
    assert [one["options"]["clip"] for one in content["starts"]] == [value] * 2
    assert "was not written" not in caplog.text


def test_a_record_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST", 5)
    for step in range(9):
        add_start(tmp_path / RECORD, {"step": step})
    content = json.loads((tmp_path / RECORD).read_text())
    assert content["count"] == 9
    assert [entry["step"] for entry in content["starts"]] == [0, 5, 6, 7, 8]


@pytest.mark.parametrize("content", ["[]", "{", '{"mine": 1}', '{"starts": 3, "count": 1}'])
def test_what_is_none_of_ours_is_left_as_it_is(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / RECORD).write_text(content)
    add_start(tmp_path / RECORD, {"step": 1})
    assert (tmp_path / RECORD).read_text() == content
    assert f"{tmp_path / RECORD} was not written" in caplog.text


def test_a_full_disk_does_not_end_a_training(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_durably", full)
    start(project, tmp_path / "logs", 0)
    assert "run.json was not written ([Errno 28] No space left on device)" in caplog.text


def test_a_git_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(record, "PATIENCE", 0.1)
    monkeypatch.setattr(record.Record, "_look", lambda self, root: Event().wait(3))
    start(project, tmp_path / "logs", 0)
    assert "was not found out within 0.1 s" in caplog.text
    assert json.loads((tmp_path / "logs" / RECORD).read_text())["count"] == 1


def test_other_ranks_record_nothing(tmp_path: Path, project: Path) -> None:
    environment = Environment(lossy_artifact_path=str(tmp_path / "logs"), rank=1, world_size=2)
    with recorded(argparse.Namespace(), environment, project) as scalars:
        scalars.begin(0)
    assert not (tmp_path / "logs").exists()
