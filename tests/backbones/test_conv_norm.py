"""Convolution and norm: apart, folded in training, fused for good."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.deformable import DeformConv2d
from backbones.layers import AffineConv2d, ConvNorm, NormKind, norm_layer

NORMS: tuple[NormKind, ...] = ("frozen_bn", "eval_bn", "bn", "sync_bn")
IMAGE = torch.randn(2, 6, 9, 11, generator=torch.Generator().manual_seed(0))


def conv_norm(norm: NormKind = "bn", **options: Any) -> ConvNorm:
    """A layer in eval mode whose norm has random statistics and affine terms."""
    torch.manual_seed(0)
    layer = ConvNorm(6, 8, 3, norm_layer=norm_layer(norm), **options).eval()
    for tensor in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.norm.running_var, 0.5, 2.0)
    return layer


def fused(layer: ConvNorm) -> ConvNorm:
    layer.fuse()
    return layer


@torch.no_grad()
def output(layer: ConvNorm) -> Tensor:
    return layer(IMAGE)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "groups": 2}, {"activation": None}, {"conv_layer": DeformConv2d}]
)
def test_a_fused_layer_computes_the_same(norm: str, options: dict[str, Any]) -> None:
    layer = conv_norm(norm=norm, **options)
    expected = output(layer)
    torch.testing.assert_close(output(fused(layer)), expected, rtol=1e-4, atol=1e-5)
    assert not isinstance(layer.norm, nn.BatchNorm2d)


def test_fusing_is_exact_in_double_and_twice_changes_nothing() -> None:
    layer, x = conv_norm().double(), IMAGE.double()
    expected = layer(x).detach()
    once = fused(layer)(x).detach()
    torch.testing.assert_close(once, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(fused(layer)(x).detach(), once)


def test_a_fused_layer_keeps_its_type_and_memory_layout() -> None:
    layer = conv_norm().to(torch.bfloat16, memory_format=torch.channels_last)
    layer.fuse()
    assert layer.conv.weight.dtype == layer.conv.bias.dtype == torch.bfloat16
    assert layer.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("conv_layer", [AffineConv2d, DeformConv2d])
@pytest.mark.parametrize("state", ["train", "eval", "fused"])
def test_hooks_of_the_convolution_always_fire(
    norm: str, conv_layer: type[AffineConv2d], state: str
) -> None:
    layer = conv_norm(norm=norm, conv_layer=conv_layer)
    layer.train(state == "train")
    if state == "fused":
        layer.fuse()
    shapes: list[tuple[int, ...]] = []
    layer.conv.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    layer(IMAGE)
    with torch.no_grad():
        layer(IMAGE)
    assert shapes == [(2, 8, 9, 11)] * 2


@pytest.mark.parametrize("norm", ["frozen_bn", "eval_bn"])
@pytest.mark.parametrize("conv_layer", [AffineConv2d, DeformConv2d])
def test_folding_in_training_has_the_gradients_of_the_unfolded_layer(
    norm: str, conv_layer: type[AffineConv2d]
) -> None:
    layer, x = conv_norm(norm=norm, conv_layer=conv_layer).double(), IMAGE.double()

    def gradients() -> dict[str, Tensor]:
        layer.zero_grad()
        layer(x).square().sum().backward()
        return {name: p.grad.clone() for name, p in layer.named_parameters()}

    unfolded, folded = gradients(), (layer.train(), gradients())[1]
    assert unfolded.keys() == folded.keys() >= {"conv.weight"}
    for name, gradient in folded.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, unfolded[name], rtol=1e-4, atol=1e-4)


def test_training_keeps_no_activation_for_a_norm_with_constant_statistics() -> None:
    def saved(norm: str) -> int:
        layer, large = conv_norm(norm=norm).train(), torch.rand(1, 6, 64, 64, requires_grad=True)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            layer(large)
        return sum(size >= 8 * 64 * 64 for size in sizes)  # outputs of the layer

    assert saved("frozen_bn") == saved("eval_bn") == saved("bn") - 1


def test_norms_stay_in_float32_when_the_network_is_cast_below() -> None:
    for kind in NORMS:
        layer = conv_norm(norm=kind).to(torch.bfloat16)
        assert layer.conv.weight.dtype == torch.bfloat16
        norm = (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var)
        assert {tensor.dtype for tensor in norm} == {torch.float32}


def test_norms_follow_to_double_and_back() -> None:
    norm = norm_layer("bn")(4)
    assert norm.double().running_mean.dtype == torch.float64
    assert norm.float().running_mean.dtype == torch.float32
    assert norm.double().half().running_mean.dtype == torch.float32
