"""Norms folded into convolutions, and networks cast below float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.layers import ConvNorm, make_norm
from fcos import Detector

NORMS = ("frozen_bn", "eval_bn", "bn", "sync_bn")
IMAGE = torch.randn(2, 6, 9, 11, generator=torch.Generator().manual_seed(0))


def conv_norm(**options: Any) -> ConvNorm:
    """With a norm that has seen something."""
    torch.manual_seed(0)
    layer = ConvNorm(6, 8, 3, **{"norm": "bn", **options}).eval()
    for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.norm.running_var, 0.5, 2.0)
    return layer


def folded(layer: ConvNorm) -> Tensor:
    with torch.no_grad():
        return layer(IMAGE)


def unfolded(layer: ConvNorm) -> Tensor:
    with torch.enable_grad():
        return layer(IMAGE).detach()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "groups": 2}, {"activation": None}, {"deformable": True}]
)
def test_folding_the_norm_changes_nothing(norm: str, options: dict[str, Any]) -> None:
    layer = conv_norm(norm=norm, **options)
    torch.testing.assert_close(folded(layer), unfolded(layer), rtol=1e-4, atol=1e-5)


def rescale(layer: ConvNorm) -> None:
    with torch.no_grad():
        layer.conv.weight.mul_(2)


def replace(layer: ConvNorm) -> None:
    layer.conv.weight = nn.Parameter(layer.conv.weight.detach() * 2)


def widen(layer: ConvNorm) -> None:
    layer.norm.running_var.mul_(4)


def track(layer: ConvNorm) -> None:
    layer.train()(IMAGE)
    layer.eval()


def track_by_the_norm_alone(layer: ConvNorm) -> None:
    layer.norm.train()
    folded(layer)
    layer.norm.eval()


def load(layer: ConvNorm) -> None:
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})


def assign(layer: ConvNorm) -> None:
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}, assign=True)


def train_behind_autograd(layer: ConvNorm) -> None:
    layer.train()
    layer.conv.weight.data.mul_(2)
    layer.eval()


CHANGES = [
    rescale,
    replace,
    widen,
    track,
    track_by_the_norm_alone,
    load,
    assign,
    train_behind_autograd,
]


@pytest.mark.parametrize("change", CHANGES)
def test_folded_weights_follow_every_change(change: Callable[[ConvNorm], None]) -> None:
    layer = conv_norm()
    before = folded(layer)
    change(layer)
    after = folded(layer)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, unfolded(layer), rtol=1e-4, atol=1e-5)


def test_training_keeps_no_folded_weights() -> None:
    layer = conv_norm()
    folded(layer)
    assert layer._folded is not None
    assert layer.train()._folded is None


def test_folding_is_exact_in_double() -> None:
    layer, x = conv_norm().double(), IMAGE.double()
    with torch.no_grad():
        folded = layer(x)
    torch.testing.assert_close(folded, layer(x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["frozen_bn", "eval_bn"])
@pytest.mark.parametrize("deformable", [False, True])
def test_training_through_folded_weights_has_the_gradients_of_the_published_layer(
    norm: str, deformable: bool
) -> None:
    layer, x = conv_norm(norm=norm, deformable=deformable).double(), IMAGE.double()

    def gradients() -> dict[str, Tensor]:
        layer.zero_grad()
        layer(x).square().sum().backward()
        return {name: p.grad.clone() for name, p in layer.named_parameters()}

    published, trained = gradients(), (layer.train(), gradients())[1]
    assert published.keys() == trained.keys() >= {"conv.weight"}
    for name, gradient in trained.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, published[name], rtol=1e-4, atol=1e-4)


def test_training_keeps_no_activation_for_a_constant_norm() -> None:
    def kept(norm: str) -> int:
        layer, large = conv_norm(norm=norm).train(), torch.rand(1, 6, 64, 64, requires_grad=True)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            layer(large)
        return sum(size >= 8 * 64 * 64 for size in sizes)  # the layer's outputs

    assert kept("frozen_bn") == kept("bn") - 1


def test_norms_stay_in_float32_when_the_network_is_cast_below() -> None:
    for kind in NORMS:
        layer = conv_norm(norm=kind).to(torch.bfloat16)
        assert layer.conv.weight.dtype == torch.bfloat16
        norm = (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var)
        assert {tensor.dtype for tensor in norm} == {torch.float32}


def test_norms_follow_to_double_and_back() -> None:
    norm = make_norm("bn", 4)
    assert norm.double().running_mean.dtype == torch.float64
    assert norm.float().running_mean.dtype == torch.float32
    assert norm.double().half().running_mean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_detector_cast_below_float32_detects_the_same(
    tiny_detector: Callable[..., Detector], picture: Tensor, dtype: torch.dtype
) -> None:
    detector = tiny_detector(head={"tower_depth": 2}).eval()
    with torch.no_grad():
        exact = detector.levels([picture])
    detector.to(dtype)
    assert detector.images.mean.dtype == torch.float32
    with torch.no_grad():
        lowered = detector.levels([picture])
    for ours, theirs in zip(lowered, exact, strict=True):
        assert ours.logits.dtype == ours.ltrb.dtype == torch.float32
        error = (ours.logits.sigmoid() - theirs.logits.sigmoid()).abs().max()
        assert float(error) < 0.05
    found = detector.detect(picture)[0]
    assert len(found) > 0
    assert found.boxes.dtype == found.scores.dtype == torch.float32
