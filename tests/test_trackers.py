"""Weights & Biases and MLflow, the real packages: one run over all resumes, no step twice, none missing."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isc_runtime.logs import Scalars
from isc_runtime.tests.processes import PROJECT, Place, rest_of, wait_for
from isc_runtime.tracking.mlflow_files import MlflowFiles
from isc_runtime.tracking.rows import Rows
from isc_runtime.tracking.run_id import read_id
from isc_runtime.tracking.weights_and_biases import WeightsAndBiases
from wandb_files import rows_of

ALL = ("--tracker", "tensorboard", "wandb", "mlflow", "--log-steps", "1", "--save-steps", "5")
LOSS = "training/loss"


def wandb_id(logs: Path) -> str:
    return str(json.loads((logs / "wandb-rows.jsonl").read_text().splitlines()[0])["id"])


def wandb_steps(logs: Path, name: str = LOSS) -> list[int]:
    """In the files of the newest start, which must hold all."""
    (file,) = (logs / "wandb").glob(f"offline-run-*-{wandb_id(logs)}*/*.wandb")
    rows = rows_of(file)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    return [row["step"] for row in rows if name in row]


def mlflow_steps(logs: Path, name: str = LOSS) -> list[int]:
    return [metric.step for metric in client(logs).get_metric_history(mlflow_id(logs), name)]


def mlflow_id(logs: Path) -> str:
    return read_id(logs / "mlflow-run.txt") or ""


def client(logs: Path) -> Any:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    return importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=(logs / "mlruns").as_uri())


def kill(process: subprocess.Popen[str]) -> None:
    """As a node dies: the training, and W&B's own process before it can write what is left."""
    os.kill(process.pid, signal.SIGSTOP)
    kill_children(process.pid)
    process.kill()
    rest_of(process)


def kill_children(pid: int) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            for child in (thread / "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)


def test_one_run_over_all_resumes_and_each_step_once(tmp_path: Path) -> None:
    place = Place(tmp_path, script=PROJECT / "train.py")
    ids = set()
    for _ in range(2):
        process = place.start(*ALL, "--max-steps", "100000", "--epochs", "1000")
        wait_for(process, "[COMPLETE] Checkpoint of step")
        kill(process)
        ids.add((wandb_id(place.logs), mlflow_id(place.logs)))
    last = max(mlflow_steps(place.logs)) + 10
    ended = place.run(*ALL, "--max-steps", str(last), "--epochs", "1000")
    assert ended.code == 0, ended.output
    assert "is off until" not in ended.output
    ids.add((wandb_id(place.logs), mlflow_id(place.logs)))
    assert len(ids) == 1
    every = list(range(1, last + 1))
    assert wandb_steps(place.logs) == every
    assert mlflow_steps(place.logs) == every
    events = EventAccumulator(str(place.logs)).Reload()
    assert [event.step for event in events.Scalars(LOSS)] == every
    for steps in (wandb_steps(place.logs, "checkpoint/bytes"), mlflow_steps(place.logs, "checkpoint/bytes")):
        assert len(steps) == len(set(steps)) > 2
    run = client(place.logs).get_run(mlflow_id(place.logs))
    assert (run.data.params["epochs"], run.data.params["max_steps"]) == ("1000", "100000"), (
        "of the first start"
    )
    assert run.data.tags["last_start.max_steps"] == str(last)
    assert run.info.status == "FINISHED"


def test_w_and_b_may_die_and_the_training_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path, script=PROJECT / "train.py")
    words = ("--tracker", "wandb", "--log-steps", "1", "--save-steps", "20")
    process = place.start(*words, "--epochs", "4")
    wait_for(process, "step 3:")
    kill_children(process.pid)
    said = rest_of(process)
    assert process.returncode == 0, said
    assert said.count("Weights & Biases is off until the next save: ") == 1
    assert "Training is complete" in said
    steps = wandb_steps(place.logs)
    assert steps[-1] > 100, "on again"
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("kind", [WeightsAndBiases, MlflowFiles])
def test_a_training_that_begins_anew_is_another_run(
    tmp_path: Path, kind: type[WeightsAndBiases] | type[MlflowFiles]
) -> None:
    ids = []
    for step in (0, 5, 0):
        with Scalars(tmp_path, None, [kind(tmp_path)]) as scalars:
            scalars.begin(step)
            scalars.add("loss", 1.0, step + 1)
        ids.append(mlflow_id(tmp_path) if kind is MlflowFiles else wandb_id(tmp_path))
    assert ids[0] == ids[1] != ids[2]


def test_a_full_disk_costs_w_and_b_s_curves_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with Scalars(tmp_path, None, [WeightsAndBiases(tmp_path)]) as scalars:
        scalars.begin(0)
        scalars.add("loss", 1.0, 1)
        with monkeypatch.context() as patch:
            patch.setattr(Rows, "_write", full)
            scalars.add("loss", 0.5, 2)
        scalars.add("loss", 0.4, 3)
        scalars.flush()
        scalars.add("loss", 0.25, 4)
    assert caplog.text.count("Weights & Biases is off until the next save: [Errno 28] No space left") == 1
    assert wandb_steps(tmp_path, "loss") == [1, 4]


def test_mlflow_may_fail_and_goes_on_in_the_same_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Scalars(tmp_path, None, [MlflowFiles(tmp_path)]) as scalars:
        scalars.begin(0)
        scalars.add("loss", 1.0, 1)
        before = mlflow_id(tmp_path)
        (metrics,) = (tmp_path / "mlruns").glob(f"*/{before}/metrics")
        (metrics / "loss").open("a").write("1796012346694 0.2")  # half a line: the disk was full
        metrics.rename(tmp_path / "elsewhere")
        metrics.write_text("no folder")
        scalars.add("loss", 0.5, 2)
        metrics.unlink()
        (tmp_path / "elsewhere").rename(metrics)
        scalars.flush()
        scalars.add("loss", 0.25, 3)
    assert caplog.text.count("MLflow is off until the next save: ") == 1
    assert mlflow_id(tmp_path) == before
    assert mlflow_steps(tmp_path, "loss") == [1, 3]


def test_nothing_is_imported_unless_it_is_chosen(tmp_path: Path) -> None:
    """Here both are installed, so that an import would work."""
    code = "import runpy, sys; sys.argv = ['train.py', '--max-steps', '2']\n"
    code += f"runpy.run_path({str(PROJECT / 'train.py')!r}, run_name='__main__')\n"
    code += "print('imported:', sorted({'wandb', 'mlflow'} & {*sys.modules}))"
    place = Place(tmp_path)
    command = [sys.executable, "-c", code]
    environment = {**place.environment(), "PYTHONPATH": str(PROJECT)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "Training is complete" in said.stdout, said.stderr
    assert said.stdout.splitlines()[-1] == "imported: []"
