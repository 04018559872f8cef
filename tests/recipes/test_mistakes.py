"""What model.py and data.py return and train.py cannot use is one sentence, before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isc_runtime.tests.processes import Place
from recipe_folder import Recipe
from test_recipes import train

DATA = '''"""Points on a line."""


def check_data(dataset_id, data_root):
    pass


def load_data(dataset_id, data_root):
    import torch

    points = torch.utils.data.TensorDataset(torch.linspace(0, 1, 64)[:, None])
    return {pair}
'''
MODEL = '''"""A line, seen as itself."""

import torch
from torch import nn

from isc_runtime.training.means import Best, Mean

BEST = Best("loss", more_is_better=False)


def build_model(name=None):
    return {model}


def batch_loss(model, batch):
    points, = batch
    wrong = (model(points) - points).square()
    return {loss}


def batch_scores(model, batch):
    points, = batch
    wrong = (model(points) - points).square()
    return {scores}
'''
RIGHT = {
    "pair": "points, points",
    "model": "nn.Linear(1, 1)",
    "loss": '{"loss": Mean(wrong.sum(), len(points))}',
    "scores": '{"loss": Mean(wrong.sum(), len(points))}',
}
MISTAKES = {
    "no pair": ("pair", "points", 4, "load_data returned a TensorDataset: data.py. It must return two"),
    "loaders": (
        "pair",
        "torch.utils.data.DataLoader(points), points",
        4,
        "load_data returned a DataLoader as training data",
    ),
    "no module": ("model", "None", 2, "build_model returned a NoneType, and not an nn.Module: model.py. Let"),
    "nothing trained": (
        "model",
        "nn.Linear(1, 1).requires_grad_(False)",
        2,
        "The model has no parameter that is trained",
    ),
    "a class": ("model", "nn.Identity", 2, "build_model returned the class Identity, and not"),
    "a tensor as loss": (
        "loss",
        "wrong.mean()",
        2,
        "batch_loss returned a Tensor of shape []: model.py. It must return a dict with a Mean",
    ),
    "no loss": ("loss", '{"error": Mean(wrong.sum(), 4)}', 2, 'batch_loss returned a dict of "error": model'),
    "a loss for each": (
        "loss",
        '{"loss": Mean(wrong, len(points))}',
        2,
        "is not one number but a Tensor of shape [8, 1]: model.py. Sum over the batch",
    ),
    "a number as loss": ("loss", '{"loss": Mean(wrong.sum().item(), 8)}', 2, "whose total has no gradient"),
    "scores for each": (
        "scores",
        '{"loss": Mean(wrong, 4)}',
        2,
        "not one number but a Tensor of shape [",
    ),
    "a number as score": (
        "scores",
        "wrong.mean().item()",
        2,
        "batch_scores returned a float: model.py. It must",
    ),
    "another score": (
        "scores",
        '{"error": Mean(wrong.sum(), 4)}',
        2,
        'and BEST names "loss": model.py. Let BEST',
    ),
}


def trained(project: Path, place: Path, ranks: int, *more: str, **changes: str) -> tuple[list[int], str]:
    """Trains with these in place of what is right, and more options. Returns the exit codes, and what all
    ranks said."""
    words = {**RIGHT, **changes}
    for name, text in {"data": DATA, "model": MODEL}.items():
        for word, value in words.items():
            text = text.replace(f"{{{word}}}", value)
        (project / f"{name}.py").write_text(text)
    options = ("--batch-size", "8", "--max-steps", "4", "--log-steps", "1", "--eval-batch-size", "512")
    recipe = Recipe("mistake", 0, "", "", 0, options + more, ())
    ended = train(Place(place, script=project / "train.py"), recipe, ranks)
    return [one.code for one in ended], "\n".join(one.output for one in ended)


@pytest.fixture(scope="module")
def mistaken(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project for mistakes."""
    return Path(shutil.copytree(fresh, tmp_path_factory.mktemp("mistakes") / "project"))


ON_TWO_RANKS = ("no pair", "no module", "a loss for each", "another score")


@pytest.mark.parametrize(
    ("mistake", "ranks"), [(name, 1) for name in MISTAKES] + [(name, 2) for name in ON_TWO_RANKS]
)
def test_it_is_said_before_the_first_step(mistaken: Path, tmp_path: Path, mistake: str, ranks: int) -> None:
    word, value, code, expected = MISTAKES[mistake]
    codes, said = trained(mistaken, tmp_path, ranks, **{word: value})
    assert codes == [code] * ranks, said
    assert expected in said
    assert "Traceback" not in said
    assert "[ATTEMPT]" not in said
    assert "step 1:" not in said


NONE, ONE = (f"torch.utils.data.TensorDataset(torch.ones({count}, 1))" for count in (0, 1))


@pytest.mark.parametrize("pair", ["points, points", f"{ONE}, points", f"points, {ONE}"])
def test_data_of_few_samples(mistaken: Path, tmp_path: Path, pair: str) -> None:
    """Fewer than there are ranks, or than a batch has."""
    codes, said = trained(mistaken, tmp_path, 2, pair=pair)
    assert codes == [0, 0], said
    assert "step 4" in said


@pytest.mark.parametrize(
    ("pair", "expected"),
    [(f"{NONE}, points", "There are no training data"), (f"points, {NONE}", "There are no held-out data")],
)
def test_no_data(mistaken: Path, tmp_path: Path, pair: str, expected: str) -> None:
    codes, said = trained(mistaken, tmp_path, 1, pair=pair)
    assert codes == [4], said
    assert expected in said
    assert "Traceback" not in said


STREAM = (
    "type('Stream', (torch.utils.data.IterableDataset,), "
    "{'__iter__': lambda _: iter([(torch.ones(1),)] * 32)})(), points"
)


def test_a_stream_goes_on_though_its_last_batch_was_evaluated(mistaken: Path, tmp_path: Path) -> None:
    """That it has ended is known after that, when no evaluation is due any more."""
    every = ("--eval-steps", "2", "--max-steps")
    codes, said = trained(mistaken, tmp_path, 1, *every, "10", pair=STREAM)
    assert codes == [0], said
    assert "epoch 3 batch 2 step 10:" in said
    again = tmp_path / "again"
    again.mkdir()
    for steps in ("4", "6"):  # a start from a checkpoint of just there
        codes, said = trained(mistaken, again, 1, *every, steps, pair=STREAM)
        assert codes == [0], said
    assert "epoch 2 batch 2 step 6:" in said


def test_weights_of_a_stream_are_said(mistaken: Path, tmp_path: Path) -> None:
    codes, said = trained(mistaken, tmp_path, 1, pair=f"{STREAM}, None, [0.5] * 5")
    assert codes == [4], said
    assert "A stream has no place for weights" in said


def test_data_that_are_not_the_same_on_all_ranks_are_said(mistaken: Path, tmp_path: Path) -> None:
    unlike = "torch.utils.data.TensorDataset(torch.ones(64 + 32 * int(__import__('os').environ['RANK']), 1))"
    for pair, what in ((f"{unlike}, points", "training"), (f"points, {unlike}", "held-out")):
        codes, said = trained(mistaken, tmp_path, 2, pair=pair)
        assert codes == [4, 4], said
        assert f"There are 96 {what} samples here, and 64 on rank 0" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("count", ["torch.tensor([8])", "8 + 0 * wrong.sum()"])
def test_counts_of_other_forms_are_counts(mistaken: Path, tmp_path: Path, count: str) -> None:
    codes, said = trained(mistaken, tmp_path, 2, loss=f'{{"loss": Mean(wrong.sum(), {count})}}')
    assert codes == [0, 0], said
    assert "step 4" in said
