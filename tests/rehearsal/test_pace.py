"""What a rehearsal measures, and where a training starts that names an earlier experiment's artifact."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from conftest import Project

ONE_RANK = ("--nodes", "1")


def test_what_is_measured_and_an_artifact_to_start_from(project: Project, tmp_path: Path) -> None:
    """An experiment failed; a new one has its artifact as input, moved, as the ISC may move it."""
    project.change("train.py", "self.scheduler.step()\n", "self.scheduler.step()\n            self.boom()\n")
    boom = "    def boom(self):\n        if self.sampler.progress.step == 60:\n            raise KeyError\n\n"
    project.change("train.py", "    def train_batch", f"{boom}    def train_batch")
    failed = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--save-steps", "20")
    assert failed.code == 1
    assert "KeyError" in failed.errors[0]
    (folder,) = project.folders
    log = (folder / "cycle-2" / "node_0.log").read_text()
    last = [line for line in log.splitlines() if "input_artifact_id_list" in line]
    assert "this experiment has failed (exit code 1), and is not started again" in last[-1]
    earlier = Path(shutil.copytree(folder / "artifacts" / "checkpoints", tmp_path / "earlier", symlinks=True))
    saved = max(int(step) for step in re.findall(r"\[COMPLETE\] Checkpoint of step (\d+)", log))
    assert 40 <= saved < 60
    project.change("train.py", "            self.boom()\n", "")
    term = ("--interrupt", "term", "--cycles", "2")
    ended = project.rehearse(*ONE_RANK, *term, "--from-artifact", str(earlier), "--", "--epochs", "4")
    assert ended.code == 0, ended.said[-3000:]
    assert f"It starts from the artifact {earlier}, at step {saved}" in ended.said
    assert [cycle["first_step"] for cycle in (ended.verdict["cycles"][0], ended.verdict["reference"])] == [
        saved + 1,
        saved + 1,
    ]
    assert ended.verdict["compared"]["identical"] is True
    pace = ended.verdict["pace"]
    assert pace["cycle_seconds"] == 90
    assert 0 < pace["first_step"] < pace["first_save"] < 90
    assert 0 < pace["stop"] < 30
    assert pace["batches"] == 1
    assert 1 < pace["longest_batch"] < 90
    assert pace["largest_checkpoint"] > pace["size"] > 10_000
    assert "s to the first completed save" in ended.said
    assert "no cycle would come to a save with batches of" in ended.said


def test_an_artifact_without_a_checkpoint_is_refused_at_once(project: Project, tmp_path: Path) -> None:
    ended = project.rehearse("--from-artifact", str(tmp_path))
    assert ended.code == 2
    assert f"There is no good checkpoint in this artifact: {tmp_path}" in ended.said
    assert project.folders == []
