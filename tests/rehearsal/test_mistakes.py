"""The classic mistakes, each planted in a copy of the project: the rehearsal finds it and names it."""

from __future__ import annotations

import re

from conftest import Project

SAVE_AT_THE_END_OF_AN_EPOCH = "checkpointer.save(force=self.metrics[BEST_SO_FAR] != before)"
SAVE_WITHIN_AN_EPOCH = "                checkpointer.save()\n"
ONE_RANK = ("--nodes", "1")
TWO_RANKS = ("--nodes", "1", "--procs-per-node", "2")


def test_a_collective_called_by_the_master_alone(project: Project) -> None:
    """A hang is reported within the limit, with where each rank stands."""
    alone = f"if self.group.is_master:\n            {SAVE_AT_THE_END_OF_AN_EPOCH}"
    project.change("train.py", SAVE_AT_THE_END_OF_AN_EPOCH, alone)
    ended = project.rehearse(*TWO_RANKS, "--hang-seconds", "8")
    assert ended.code == 1
    (error,) = ended.errors
    assert error.startswith("cycle 1: It hangs, no step was done in time: ")
    lines = (project.path / "train.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if SAVE_AT_THE_END_OF_AN_EPOCH in text)
    assert f"rank 0 is in train.py:{line}, evaluate(), in " in error
    assert re.search(r"rank 1 is in train.py:\d+, \w+\(\)", error)
    assert "A collective that only some ranks call looks like this" in error
    (stacks,) = re.findall(r"All stacks: (.*?)\. A step", error)
    assert "most recent call first" in (project.path / stacks / "stacks_of_rank_1.txt").read_text()


def test_a_checkpoint_outside_of_the_artifact(project: Project) -> None:
    save = f'torch.save(self.model.state_dict(), "{project.path}/weights.pt")'
    project.change("train.py", SAVE_AT_THE_END_OF_AN_EPOCH, save)
    project.change("train.py", SAVE_WITHIN_AN_EPOCH, f"                {save}\n")
    ended = project.rehearse(*ONE_RANK, "--", "--epochs", "1")
    assert ended.code == 1
    error = ended.errors[0]
    what = "cycle 1: Its checkpoints go outside of the artifact, and are lost with the node: "
    assert error.startswith(f"{what}{project.path}/weights.pt.")
    assert "CHECKPOINT_ARTIFACT_PATH" in error


def test_a_resume_that_does_not_happen(project: Project) -> None:
    project.change("train.py", "        checkpointer.restore()\n", "")
    ended = project.rehearse(*ONE_RANK)
    assert ended.code == 1
    (error,) = ended.errors
    assert re.match(
        r"cycle 2: It does not resume: it began at step 0, and a checkpoint of step [1-9]\d* was there\.",
        error,
    )
    assert "checkpointer.restore()" in error


def test_a_sampler_that_repeats(project: Project) -> None:
    """torch's own sampler: after a resume within an epoch it begins the epoch anew."""
    project.change(
        "train.py",
        "loaders.training_loader(self.data, self.sampler, arguments.workers, group.device)\n",
        "torch.utils.data.DataLoader(\n"
        "            self.data.training,\n"
        "            sampler=torch.utils.data.RandomSampler(\n"
        "                self.data.training,\n"
        "                generator=torch.Generator().manual_seed(self.sampler.progress.epoch),\n"
        "            ),\n"
        "            batch_size=self.arguments.batch_size,\n"
        "        )\n",
    )
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4", "--save-steps", "7")
    assert ended.code == 1
    error = ended.errors[0]
    match = re.match(
        r"train.py: From step (\d+) on it trains on other samples than without an interruption: "
        r"in epoch \d+ (\d+) come again, and",
        error,
    )
    assert match, ended.errors
    assert int(match[1]) == ended.verdict["cycles"][1]["first_step"]
    assert int(match[2]) > 0
    assert "The sampler has to go on where the checkpoint was made" in error


def test_the_same_order_in_every_epoch(project: Project) -> None:
    """Nothing that an interruption brings about, so a warning."""
    project.change("isc_runtime/sampler.py", "SeedSequence([seed, epoch])", "SeedSequence([seed, 0])")
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert ended.code == 0, ended.errors
    (warning,) = ended.warnings
    assert "The data come in the same order in epoch 0 and in epoch 1" in warning
    assert "next_epoch()" in warning


def test_an_argument_that_train_does_not_have(project: Project) -> None:
    project.change("experiment.isc", "launch.sh --dataset-id", "launch.sh --resume --dataset-id")
    found_without_training(project, r"experiment.isc:\d+: train.py has no argument --resume\.")


def test_a_wrong_path_in_the_command(project: Project) -> None:
    project.change("experiment.isc", "/launch.sh ", "/scripts/launch.sh ")
    found_without_training(
        project, r"experiment.isc:\d+: There is no /root/isc-experiment/scripts/launch.sh in"
    )


def test_a_newline_meant_as_a_separator(project: Project) -> None:
    project.change("experiment.isc", 'command = "', 'command = """cd /root/isc-experiment\n')
    project.change("experiment.isc", '250513"\n', '250513"""\n')
    found_without_training(
        project, r"experiment.isc:\d+: The command has a line break, which becomes a blank"
    )


def test_gpus_that_are_no_multiple_of_those_of_a_node(project: Project) -> None:
    project.change("experiment.isc", "gpus = 8\n", "gpus = 7\n")
    what = r"experiment.isc: gpus = 7 is no multiple of 2, the GPUs per node: .* Use 6 or 8\.$"
    found_without_training(project, what, "--procs-per-node", "2")


def found_without_training(project: Project, pattern: str, *options: str) -> None:
    ended = project.rehearse(*options)
    assert ended.code == 1
    assert any(re.match(pattern, error) for error in ended.errors), ended.errors
    assert ended.verdict["cycles"] == []
    assert [path.name for path in project.folders[0].iterdir()] == ["verdict.json"]


def test_a_launch_script_that_hides_a_failing_exit_code(project: Project) -> None:
    script = (project.path / "launch.sh").read_text()
    script = script.replace("\nexec ", "\n").rstrip() + ' || echo "training failed"\n'
    (project.path / "launch.sh").write_text(script)
    ended = project.rehearse()
    assert ended.code == 1
    (error,) = ended.errors
    assert re.match(
        r"launch.sh: A failure is hidden: the ranks ended with \d+, and the command with 0\. The ISC takes",
        error,
    )
    assert ended.verdict["cycles"] == []


def test_state_that_is_not_saved(project: Project) -> None:
    project.change("train.py", '["model", "optimizer", "scheduler", ', '["model", "scheduler", ')
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert ended.code == 1
    (error,) = ended.errors
    assert re.match(r"train.py: Interrupted it is another training: at step \d+ it is not bit for bit", error)
    assert "What differs: model." in error
    assert "put it into Trainer.state()" in error


def test_a_training_that_fails(project: Project) -> None:
    project.change("experiment.isc", "launch.sh --dataset-id", "launch.sh --learning-rate nan --dataset-id")
    ended = project.rehearse(*ONE_RANK)
    assert ended.code == 1
    (error,) = ended.errors
    assert "'nan' is not a number above 0" in error
