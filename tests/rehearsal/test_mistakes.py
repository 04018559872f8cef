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
    assert re.match(r"cycle \d: It hangs, no step was done in time: ", error)  # perhaps after an interruption
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
    project.change("isc_runtime/permutation.py", "SeedSequence([seed, epoch])", "SeedSequence([seed, 0])")
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
    project.change("experiment.isc", 'seconds 90"\n', 'seconds 90"""\n')
    found_without_training(project, r"experiment.isc:\d+: The line break before 'bash' becomes a blank")


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
    left_out, error = ended.errors
    assert "The training holds 'optimizer', which has a state and is not saved" in left_out
    assert re.match(r"train.py: Interrupted it is another training: at step \d+ it is not bit for bit", error)
    assert re.search(r"What differs: .*\bmodel\.", error)
    assert "put it into Trainer.state()" in error


def test_weights_that_are_changed_between_two_steps(project: Project) -> None:
    """After the save: it is not in the checkpoint, and a resume does not do it again."""
    poll = "                checkpointer.save()\n            checkpointer.poll()\n"
    decay = "            for weight in self.model.parameters():\n                weight.data.mul_(0.999)\n"
    project.change("train.py", poll, poll + decay)
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert ended.code == 1
    (error,) = ended.errors
    assert re.search(r"What differs: .*\bmodel\.", error)
    assert "changes between save() and the next step (through .data, say)" in error


AVERAGE = "        self.average = torch.optim.swa_utils.AveragedModel(self.model)\n"
POSITION = "        self.metrics: dict[str, Any] ="
STEP = "            take_step(self.optimizer, partial(self.gradients, batch), self.group)\n"


def test_an_average_of_the_weights_that_is_not_saved(project: Project) -> None:
    """Neither model nor optimizer show it: the average, which is the deliverable, begins anew."""
    project.change("train.py", POSITION, AVERAGE + POSITION)
    project.change("train.py", STEP, f"{STEP}            self.average.update_parameters(self.model)\n")
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert ended.code == 1
    (error,) = ended.errors
    assert error.startswith("train.py: The training holds 'average', which has a state and is not saved")
    assert "Add 'average' to what state() returns" in error


def test_an_average_of_the_weights_that_does_not_come_back(project: Project) -> None:
    """Its class saves what it once was."""
    project.change("train.py", POSITION, "        self.average = Average(self.model)\n" + POSITION)
    project.change("train.py", STEP, f"{STEP}            self.average.update()\n")
    project.change("train.py", '"metrics"]\n', '"metrics", "average"]\n')
    project.change("train.py", "class Trainer:\n", f"{FORGETFUL}\n\nclass Trainer:\n")
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert ended.code == 1
    (error,) = ended.errors
    assert re.search(r"What differs: average\.updates=\d+ and not \d+\. Model and optimizer are equal", error)
    assert "let its load_state_dict take all" in error


FORGETFUL = """
class Average:
    def __init__(self, model: nn.Module) -> None:
        self.updates = 0

    def update(self) -> None:
        self.updates += 1

    def state_dict(self) -> dict[str, int]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass
"""


def test_a_dict_of_values_that_is_made_for_each_save(project: Project) -> None:
    """It would be right in the checkpoint, and lost at the resume: refused before the first step."""
    project.change(
        "train.py", "| self.data.parts()", '| self.data.parts() | {"counts": {"seen": self.guard._most}}'
    )
    ended = project.rehearse(*ONE_RANK)
    assert ended.code == 1
    (error,) = ended.errors
    assert "A dict is made anew by each call of state()" in error
    assert "keep it in an attribute" in error


NOISE = "import torch\n\nNOISE = torch.Generator().manual_seed(0)\n"
NOISY = """

class Noisy:
    def __init__(self, dataset, noise):
        self.dataset, self.noise = dataset, noise

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        import torch

        image, label = self.dataset[index]
        return image + torch.randn(image.shape, generator=self.noise), label
"""


def test_a_dataset_with_a_generator_of_its_own_is_none(project: Project) -> None:
    """It is seeded for each batch, so that a resume draws the same."""
    project.change(
        "data.py",
        "        return datasets[0], datasets[1]\n    datasets = []",
        (
            "        noise = torch.Generator().manual_seed(0)\n"
            "        return Noisy(datasets[0], noise), datasets[1]\n    datasets = []"
        ),
    )
    (project.path / "data.py").write_text((project.path / "data.py").read_text() + NOISY)
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert (ended.code, ended.errors) == (0, []), ended.said
    assert "bit for bit those of an uninterrupted run" in ended.said


def test_a_generator_at_module_level(project: Project) -> None:
    project.change(
        "data.py",
        "        return datasets[0], datasets[1]\n    datasets = []",
        (
            "        def collate(samples):\n"
            "            images, labels = torch.utils.data.default_collate(samples)\n"
            "            return images + torch.randn((), generator=NOISE), labels\n\n"
            "        return datasets[0], datasets[1], collate\n    datasets = []"
        ),
    )
    (project.path / "data.py").write_text((project.path / "data.py").read_text() + "\n\n" + NOISE)
    ended = project.rehearse(*ONE_RANK, "--cycles", "2", "--", "--epochs", "4")
    assert ended.code == 1
    (error,) = ended.errors
    assert re.match(r"train.py: Interrupted it is another training: at step \d+ it is not bit for bit", error)
    assert "The data draw from a generator of their own (collate.NOISE), which begins anew" in error


def test_a_training_that_fails(project: Project) -> None:
    project.change("experiment.isc", "launch.sh --dataset-id", "launch.sh --learning-rate nan --dataset-id")
    ended = project.rehearse(*ONE_RANK)
    assert ended.code == 1
    (error,) = ended.errors
    assert "'nan' is not a number above 0" in error
