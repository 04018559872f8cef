"""Trainings in which nothing is usual: each is killed twice and ends as if it had not been, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isc_runtime.tests.processes import Place, differences
from recipe_folder import Recipe
from test_recipes import story, train

DATA = '''"""Samples and batches are objects, with text, paths, None and lists of unequal length in them."""


def check_data(dataset_id, data_root):
    pass


def load_data(dataset_id, data_root):
    from isc_runtime.training.loaders import Data
    from samples import Samples, collated

    return Data(Samples(160), Samples(12), collate=collated)
'''
SAMPLES = '''"""What is random comes from the generators of Python, NumPy and torch."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass
class Sample:
    image: torch.Tensor
    name: str
    box: Any


@dataclass
class Batch:
    images: torch.Tensor
    names: list
    boxes: list
    where: Path
    note: Any = None
    length: int = field(init=False)

    def __post_init__(self):
        self.length = len(self.names)


class Samples:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.full((1, 8, 8), index / self.count)
        image += torch.from_numpy(np.random.normal(size=(1, 8, 8))).float() * 0.1
        if random.random() < 0.5:
            image = image.flip(-1)
        image += torch.randn(1, 8, 8) * 0.1
        return Sample(image, f"text {index}", torch.ones(index % 3, 4) if index % 2 else None)


def collated(samples):
    return Batch(
        torch.stack([one.image for one in samples]),
        [one.name for one in samples],
        [one.box for one in samples],
        Path("somewhere"),
    )
'''
MODEL = '''"""Parametrizations, a compiled part, a count in extra state, a mask of -inf made in training."""

import torch
from torch import nn

from isc_runtime.training.means import Best, Mean

BEST = Best("error", more_is_better=False)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, []

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.seen = [*self.seen, float(x.detach().mean())][-3:]
        return x + 0.001 * self.calls

    def get_extra_state(self):
        return {"calls": self.calls, "seen": self.seen}

    def set_extra_state(self, state):
        self.calls, self.seen = state["calls"], list(state["seen"])


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3, padding=1))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.norm = nn.BatchNorm2d(4)
        self.old = nn.utils.parametrizations.weight_norm(nn.Linear(256, 16))
        self.compiled = torch.compile(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), backend="eager")
        self.count = Counting()
        self.last = nn.Linear(16, 1)
        self.register_buffer("mask", torch.zeros(16, 16))
        self.history = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x):
        if not self.mask.any():
            self.mask = torch.full((16, 16), -torch.inf).triu(1)
        h = self.norm(self.second(self.first(x).relu()))
        h = self.compiled(self.old(h.flatten(1)))
        h = self.count(h @ self.mask.softmax(dim=1))
        return self.last(torch.nn.functional.dropout(h, 0.1, self.training))


def build_model(name=None):
    return Odd()


def batch_loss(model, batch):
    target = torch.tensor([[float(name.split()[1]) / 160] for name in batch.names])
    wrong = (model(batch.images) - target).square()
    assert batch.length == len(batch.names)
    return {"loss": Mean(wrong.sum(), len(wrong)), "boxes": Mean(sum(b is not None for b in batch.boxes), 1)}


def batch_scores(model, batch):
    return {"error": batch_loss(model, batch)["loss"]}
'''
TEACHER = '''"""A frozen body, a teacher that follows its student from some batch on, a queue of keys."""

import copy

import torch
from torch import nn

from isc_runtime.training.means import Best, Mean

BEST = Best("error", more_is_better=False)


class Contrast(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU()).requires_grad_(False)
        self.student = nn.Linear(512, 128)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("queue", torch.randn(64, 128))
        self.register_buffer("place", torch.tensor(0))

    def forward(self, images):
        hidden = self.body(images)
        query, key = self.student(hidden), self.teacher(hidden)
        loss = (query - key + 0.1).square().mean(1) + (query @ self.queue.clone().T).logsumexp(1) * 0.01
        if self.training:
            where = int(self.place)
            self.queue[where] = key.detach()[0]
            self.place.fill_((where + 1) % len(self.queue))
            if where >= 11:  # till then it looks as frozen as the body
                for old, new in zip(self.teacher.parameters(), self.student.parameters()):
                    old.data.mul_(0.9).add_(new.data, alpha=0.1)
        return loss


def build_model(name=None):
    return Contrast()


def batch_loss(model, batch):
    wrong = model(batch[0])
    return {"loss": Mean(wrong.sum(), len(wrong))}


def batch_scores(model, batch):
    return {"error": batch_loss(model, batch)["loss"]}
'''
SAM = '''"""An optimizer around another one, whose state it leaves out of its own."""

import torch


class SAM(torch.optim.Optimizer):
    def __init__(self, parameters, inner, **settings):
        super().__init__(parameters, settings)
        self.base_optimizer = inner(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure):
        """Takes the gradient where the loss is higher, and the step from where it was."""
        trained = [one for group in self.param_groups for one in group["params"] if one.grad is not None]
        for one in trained:
            self.state[one]["before"] = one.clone()
            one.add_(0.01 * one.grad)
        with torch.enable_grad():
            closure()
        for one in trained:
            one.copy_(self.state[one]["before"])
        self.base_optimizer.step()


class Schedule:
    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 / self.steps**0.5

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]
'''
OPTIMIZER = """        self.optimizer = optim.AdamW(
            self.model.parameters(), lr=arguments.learning_rate, weight_decay=arguments.weight_decay
        )
"""
SCHEDULE = """        self.scheduler = optim.lr_scheduler.LambdaLR(self.optimizer, self.learning_rate_factor)
"""
IMPORT = """    from model import BEST, batch_loss, batch_scores, build_model
"""
STEP = """            take_step(self.optimizer, partial(self.gradients, batch), self.group)
"""
ODD = {
    OPTIMIZER: """        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = SAM(trained, optim.SGD, lr=arguments.learning_rate, momentum=0.9)
        self.base = self.optimizer.base_optimizer
        average = optim.swa_utils.get_ema_multi_avg_fn(0.9)
        self.ema = optim.swa_utils.AveragedModel(self.model, multi_avg_fn=average)
""",
    SCHEDULE: "        self.scheduler = Schedule(self.optimizer)\n",
    STEP: STEP + "            self.ema.update_parameters(self.model)\n",
    IMPORT: IMPORT + "    from sam import SAM, Schedule\n",
    '["model", "optimizer"': '["model", "base", "ema", "optimizer"',
}
SHARED = "        self.replica = parallelize(self.model, group"
PHASES = {
    OPTIMIZER: """        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optim.SGD(trained, lr=0.01, momentum=0.9)
""",
    SCHEDULE: "",
    '"scheduler", ': "",
    "            self.scheduler.step()\n": "",
    SHARED: "        self.model.features.requires_grad_(False)\n" + SHARED,
    "        checkpointer.restore()\n": "        checkpointer.restore()\n        self.share()\n",
    "        self.guard.remember()\n": """        if self.sampler.progress.step == 9:
            self.model.features.requires_grad_(True)
            self.optimizer.add_param_group({"params": list(self.model.features.parameters()), "lr": 0.001})
            self.share()
        self.guard.remember()
""",
    "    def run(self": """    def share(self):
        how = options.ParallelOptions.of(self.arguments)
        self.replica = parallelize(self.model, self.group, self.first_loss, how)

    def run(self""",
}
FILES = {"data": DATA, "samples": SAMPLES, "model": MODEL, "sam": SAM}
ODD_ONES: dict[str, tuple[dict[str, str], dict[str, str], tuple[str, ...]]] = {
    "odd": (FILES, ODD, ("--workers", "2")),
    "thawed": ({}, PHASES, ()),
    "teacher": ({"model": TEACHER}, {}, ()),
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ODD_ONES)
def test_killed_twice_it_ends_as_if_it_had_not_been(
    fresh: Path, tmp_path: Path, name: str, ranks: int
) -> None:
    files, changes, more = ODD_ONES[name]
    project = Path(shutil.copytree(fresh, tmp_path / "project"))
    for file, text in files.items():
        (project / f"{file}.py").write_text(text)
    program = (project / "train.py").read_text()
    for before, after in changes.items():
        assert program.count(before) == 1, before
        program = program.replace(before, after)
    (project / "train.py").write_text(program)
    options = ("--batch-size", "8", "--max-steps", "24", "--eval-steps", "10", "--save-steps", "3", *more)
    recipe = Recipe(name, 0, "", "", 0, options, (7, 16))
    whole, killed = (Place(tmp_path / place, script=project / "train.py") for place in ("whole", "killed"))
    assert [ended.code for ended in train(whole, recipe, ranks)] == [0] * ranks, story(whole)
    assert "[STATE]" not in story(whole)
    for step in recipe.kills:
        train(killed, recipe, ranks, kill_at=step)
    last = train(killed, recipe, ranks)
    assert [ended.code for ended in last] == [0] * ranks, story(killed)
    assert 0 < last[0].steps("Resumed from")[0] < recipe.kills[-1]
    assert differences(whole.newest(), killed.newest()) == []
