"""The model: any size of image, every weight trained, dropout in training alone.

These tests are about the example; change them together with model.py.
Keep: that loss and scores are sums over the samples, that gradients reach every parameter, that the seed
decides the weights, that dropout is off in evaluation.
Replace: the shapes, and what only images have.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import model as models
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.training.means import Means
from model import BEST, MODELS, batch_loss, batch_scores, build_model

# Yours may take a batch of another type.
SUMS: dict[str, Callable[..., Means]] = {"loss": batch_loss, BEST.name: batch_scores}
NAMES = sorted(MODELS)
SIZES = [(8, 8), (28, 28), (5, 9), (1, 1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_scores_every_class_for_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    assert build_model(name)(torch.randn(3, 1, *size)).shape == (3, 10)


def test_the_loss_and_the_scores_are_sums_over_the_samples() -> None:
    model = build_model().eval()
    batch = torch.randn(6, 1, 8, 8), torch.arange(6)
    halves = [(batch[0][part], batch[1][part]) for part in (slice(0, 2), slice(2, 6))]
    for name, function in SUMS.items():
        whole, parts = function(model, batch)[name], [function(model, half)[name] for half in halves]
        assert whole.count == sum(part.count for part in parts) == 6
        torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES[:2])
def test_gradients_reach_every_parameter(name: str, size: tuple[int, int]) -> None:
    model = build_model(name)
    loss = cross_entropy(model(torch.randn(4, 1, *size)), torch.arange(4))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_on_in_training_and_off_in_evaluation(name: str) -> None:
    model = build_model(name)
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_scored_alike_alone_and_among_others(name: str) -> None:
    model = build_model(name).eval()
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))


@pytest.mark.parametrize("name", NAMES)
def test_keeps_no_statistics_beside_its_parameters(name: str) -> None:
    model = build_model(name)
    assert list(model.buffers()) == []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.full((2, 1, 8, 8), torch.nan))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_seed_decides_the_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model().state_dict()["features.0.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_model_of_ones_own_needs_a_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "mine", lambda: nn.Linear(2, 3))
    assert isinstance(build_model("mine"), nn.Linear)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(IscError, match=r"no such model: --model convent\. Choose one of convnet, ") as raised:
        build_model("convent")
    assert raised.value.exit_code is ExitCode.USAGE
