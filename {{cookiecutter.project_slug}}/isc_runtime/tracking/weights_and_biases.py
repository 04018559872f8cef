"""Weights & Biases, offline: a run in folder `wandb` beside the other logs, for `wandb sync` to upload.

It cannot resume a run without its server, and a kill costs it what its own process has not written yet. So
all rows are kept in a file of ours, too, and each start begins with them: its folder holds the whole run,
under the same id, and takes the place of the folder of the start before.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isc_runtime.tracking.rows import Rows
from isc_runtime.tracking.tracker import settings_of

STEP = "step"  # the training's. Rows have numbers of their own: a save's costs are known after later batches
ROWS = "wandb-rows.jsonl"
# A node has no network, a log is no console, and neither packages nor the machine are ours to tell.
QUIET = {
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class WeightsAndBiases:
    """A run of Weights & Biases.

    Args:
        directory: for logs; its files are in `wandb` in it.
    """

    name = "Weights & Biases"

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._rows = Rows(self._directory / ROWS)
        self._run: Any = None

    def begin(self, step: int) -> None:
        """Goes on in the run of the start before, unless the training begins anew."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._directory.mkdir(parents=True, exist_ok=True)
        before = self._rows.open(step, run_id=secrets.token_hex(4))
        superseded = [*self._directory.glob(f"wandb/offline-run-*-{self._rows.run_id}*")]
        wandb = _package()
        known = wandb.Settings.model_fields
        self._run = wandb.init(
            dir=str(self._directory),
            id=self._rows.run_id,
            mode="offline",
            project=os.environ.get("WANDB_PROJECT", Path.cwd().name or "training"),
            settings=wandb.Settings(**{name: value for name, value in QUIET.items() if name in known}),
        )
        self._run.define_metric("*", step_metric=STEP)
        for values, at in before:
            self._log(values, at)
        for folder in superseded:
            if folder != Path(self._run.settings.sync_dir):
                shutil.rmtree(folder, ignore_errors=True)

    def describe(self, start: Mapping[str, Any], step: int) -> None:
        """The run's config is the last start's."""
        self._run.config.update(settings_of(start), allow_val_change=True)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """A row; values that the run has already are left out."""
        if new := self._rows.add(values, step):
            self._log(new, step)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, STEP: step}, commit=True)

    def flush(self) -> None:
        """It writes by itself, and our rows are written already."""

    def close(self) -> None:
        """Waits until all is in its file."""
        self._rows.close()
        run, self._run = self._run, None
        if run is not None:
            try:
                run.finish()
            finally:
                _package().teardown()  # ends its process, which writes on after that, or has died


def _package() -> Any:
    """No import statement: it is installed only where it is chosen."""
    return importlib.import_module("wandb")
