"""Gradients to the pixels, as saliency maps and adversarial images need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fcos import Detector, ImageNormalizer

Build = Callable[..., Detector]

SQUARE = ImageNormalizer([0.0] * 3, [100.0] * 3, divisor=32, square=True)


@pytest.mark.parametrize("options", [{}, {"normalizer": SQUARE}])
def test_a_saliency_map_of_each_image(
    tiny_detector: Build, picture: Tensor, options: dict[str, Any]
) -> None:
    detector = tiny_detector(**options).eval()
    images = [(picture / 255).requires_grad_(), (picture[:, :, :50] / 255).requires_grad_()]
    best = torch.stack([level.logits.amax((1, 2, 3)) for level in detector.levels(images)])
    best.amax(0).sum().backward()
    for image in images:
        saliency = image.grad.abs().amax(0)
        assert saliency.shape == image.shape[1:]
        assert float(saliency.max()) > 0


def test_a_step_against_the_gradient_lowers_the_loss(
    tiny_detector: Build, picture: Tensor, target: dict[str, Tensor]
) -> None:
    detector = tiny_detector().train()
    image = (picture / 255).requires_grad_()

    def loss(image: Tensor) -> Tensor:
        return torch.stack(list(detector([image], [target]).values())).sum()

    before = loss(image)
    before.backward()
    after = loss((image - 1e-4 * image.grad.sign()).detach())
    assert float(after.detach()) < float(before.detach())


def test_gradients_are_those_of_the_network_alone(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector().eval()
    image = (picture / 255).requires_grad_()
    detector.levels([image])[0].logits.sum().backward()
    batch = detector.normalizer([image.detach()])
    batch.tensor.requires_grad_()
    detector.network(batch)[0].logits.sum().backward()
    scale = 255 / detector.normalizer.std
    expected = (batch.tensor.grad[0, :, :60, :90] * scale).flip(0)  # BGR
    torch.testing.assert_close(image.grad, expected)
