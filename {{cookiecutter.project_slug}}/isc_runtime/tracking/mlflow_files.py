"""MLflow's file store: folder `mlruns` beside the other logs, which `mlflow ui` shows."""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isc_runtime.tracking.run_id import read_id, write_id
from isc_runtime.tracking.tracker import Seen, settings_of

# MLflow would rather have a database, but a folder that is synced at any moment wants files that only grow.
# And it tells its makers how it is used, which a node without a network cannot.
SETTINGS = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
LONGEST = 500  # characters of a parameter
STORE, ID = "mlruns", "mlflow-run.txt"


class MlflowFiles:
    """A run of MLflow in files.

    Args:
        directory: for logs; the store is `mlruns` in it.
    """

    name = "MLflow"

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._client: Any = None
        self._run_id = ""
        self._seen = Seen({})

    def begin(self, step: int) -> None:
        """Goes on in the run of the start before, unless the training begins anew."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self._directory.mkdir(parents=True, exist_ok=True)
        # No import statement: it is installed only where it is chosen.
        self._client = importlib.import_module("mlflow.tracking").MlflowClient(
            tracking_uri=(self._directory / STORE).as_uri()
        )
        before = read_id(self._directory / ID)
        if not (step and before and self._goes_on(before, step)):
            self._run_id, self._seen = self._new_run(), Seen({})
            write_id(self._directory / ID, self._run_id)

    def _goes_on(self, run_id: str, step: int) -> bool:
        """Whether a run is still there."""
        repair_lines(self._directory / STORE, run_id, step)
        try:
            names = self._client.get_run(run_id).data.metrics
            history = {name: self._client.get_metric_history(run_id, name) for name in names}
            self._client.update_run(run_id, status="RUNNING")
        except importlib.import_module("mlflow.exceptions").MlflowException:
            return False
        last = {name: max(metric.step for metric in metrics) for name, metrics in history.items()}
        self._run_id, self._seen = run_id, Seen(last)
        return True

    def _new_run(self) -> str:
        name = Path.cwd().name or "training"
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        return str(self._client.create_run(number).info.run_id)

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        """Parameters are those of the first start, as MLflow wants it; the last start's are tags."""
        entities = importlib.import_module("mlflow.entities")
        settings = {name: value for name, value in settings_of(start).items() if value is not None}
        texts = {name: str(value)[:LONGEST] for name, value in settings.items()}
        known = self._client.get_run(self._run_id).data.params
        params = [entities.Param(name, text) for name, text in texts.items() if name not in known]
        tags = [entities.RunTag(f"last_start.{name}", text) for name, text in texts.items()]
        tags.append(entities.RunTag("last_start.step", str(step)))
        self._client.log_batch(self._run_id, params=params, tags=tags)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Metrics; those that the run has already are left out."""
        metric, now = importlib.import_module("mlflow.entities").Metric, int(time.time() * 1000)
        new = self._seen.new(values, step)
        self._client.log_batch(self._run_id, [metric(name, value, now, step) for name, value in new.items()])

    def flush(self) -> None:
        """Each value is in its file already."""

    def close(self) -> None:
        """The run has ended, for now."""
        if self._client is not None and self._run_id:
            self._client.set_terminated(self._run_id)


def repair_lines(store: Path, run_id: str, step: int) -> None:
    """Takes away halves of lines, which a full disk leaves: MLflow could not read the run any more. And what
    comes again, perhaps with other values: MLflow keeps whatever it is told.

    Args:
        store: MLflow's folder.
        run_id: of the run, whose metrics have a file each, a line for each value, in the order of steps.
        step: that the training goes on from.
    """
    for file in store.glob(f"*/{run_id}/metrics/**/*"):
        if not file.is_file():
            continue
        lines = file.read_bytes().splitlines(keepends=True)
        kept = itertools.takewhile(lambda line: line.endswith(b"\n") and _step_of(line) <= step, lines)
        size = sum(map(len, kept))
        if not size:
            file.unlink()
        elif size != sum(map(len, lines)):
            os.truncate(file, size)


def _step_of(line: bytes) -> int:
    """MLflow writes: time, value, step."""
    return int(line.split()[2])
