"""The model: any size of image, every weight trained, dropout in training alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from model import build_model

SIZES = [(8, 8), (28, 28), (5, 9), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_scores_every_class_for_images_of_any_size(size: tuple[int, int]) -> None:
    assert build_model()(torch.randn(3, 1, *size)).shape == (3, 10)


def test_takes_as_many_channels_and_classes_as_asked_for() -> None:
    assert build_model(channels=3, classes=7)(torch.randn(2, 3, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize("size", SIZES[:2])
def test_gradients_reach_every_parameter(size: tuple[int, int]) -> None:
    model = build_model()
    loss = cross_entropy(model(torch.randn(4, 1, *size)), torch.arange(4))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_dropout_is_on_in_training_and_off_in_evaluation() -> None:
    model = build_model()
    images = torch.randn(4, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_an_image_is_scored_alike_alone_and_among_others() -> None:
    model = build_model().eval()
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))


def test_keeps_no_statistics_beside_its_parameters() -> None:
    model = build_model()
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
