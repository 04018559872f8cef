"""Batches whose tensors have another number of rows on each rank: the ranks' weights stay equal."""

from __future__ import annotations

import shutil
from pathlib import Path

from isc_runtime.tests.processes import Place, differences
from recipe_folder import Recipe
from test_recipes import story, train

DATA = '''"""Texts of unequal length."""


def check_data(dataset_id, data_root):
    pass


def load_data(dataset_id, data_root):
    from isc_runtime.training.loaders import Data
    from texts import packed, texts

    return Data(texts(200), texts(20), collate=packed)
'''
TEXTS = '''"""Texts of unequal length, packed into one without padding."""

import torch


def texts(count):
    generator = torch.Generator().manual_seed(count)
    return [torch.randint(9, (2 + number * number % 31,), generator=generator) for number in range(count)]


def packed(samples):
    begins = [0, *torch.tensor([len(sample) for sample in samples]).cumsum(0)[:-1].tolist()]
    return torch.cat(samples), torch.tensor(begins)
'''
MODEL = '''"""Tells of a text what it has most of."""

from torch import nn
from torch.nn.functional import cross_entropy

from isc_runtime.training.means import Best, Mean

BEST = Best("loss", more_is_better=False)


def build_model(name=None):
    return nn.EmbeddingBag(9, 9, mode="mean")


def batch_loss(model, batch):
    tokens, begins = batch
    return {"loss": Mean(cross_entropy(model(tokens, begins), tokens[begins], reduction="sum"), len(begins))}


batch_scores = batch_loss
'''


def test_the_ranks_stay_equal(fresh: Path, tmp_path: Path) -> None:
    """A resume gives all ranks the weights of the first: it ended otherwise when theirs were not equal."""
    project = Path(shutil.copytree(fresh, tmp_path / "project"))
    for name, text in {"data": DATA, "model": MODEL, "texts": TEXTS}.items():
        (project / f"{name}.py").write_text(text)
    options = ("--batch-size", "4", "--max-steps", "20", "--save-steps", "3", "--learning-rate", "0.03")
    recipe = Recipe("packed", 0, "", "", 0, options, (7,))
    whole, killed = (Place(tmp_path / name, script=project / "train.py") for name in ("whole", "killed"))
    assert [ended.code for ended in train(whole, recipe, 2)] == [0, 0], story(whole)
    train(killed, recipe, 2, kill_at=7)
    resumed = train(killed, recipe, 2)
    assert [ended.code for ended in resumed] == [0, 0], story(killed)
    assert 0 < resumed[0].steps("Resumed from")[0] < 7
    assert differences(whole.newest(), killed.newest()) == []
