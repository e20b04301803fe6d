"""What makes each backbone the published one: sizes, and the arithmetic that was rearranged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import vovnet
from backbones.dla import DLA
from backbones.hrnet import Fusion, HRNet
from backbones.layers import ConcatConvNorm, ConvNorm, norm_layer
from backbones.mobilenet import MobileNetV2
from backbones.vovnet import OneShotAggregation, VoVNet
from fcos import FPN, HRFPN, Head


def parameters(body: nn.Module, pyramid: Any) -> int:
    """Of a detector with this backbone and pyramid, and the head of FCOS."""
    head = Head(pyramid.strides, 80, pyramid.channels)
    return sum(p.numel() for part in (body, pyramid, head) for p in part.parameters())


@pytest.mark.parametrize(
    ("width", "levels", "published"),
    [(18, 5, 17.50), (18, 6, 18.09), (32, 5, 37.30), (32, 6, 37.89), (40, 6, 54.14)],
)
def test_hrnet_detectors_have_the_published_number_of_parameters(
    width: int, levels: int, published: float
) -> None:
    body = HRNet(width)
    pyramid = HRFPN(body.channels, body.strides, levels=levels, conv_stride=2 if levels == 5 else 1)
    assert round(parameters(body, pyramid) / 1e6, 2) == published


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({}, 30.02),
        ({"blocks": (1, 1, 4, 3)}, 44.05),
        ({"blocks": (1, 3, 8, 3)}, 64.63),
        ({"ese": True}, 33.63),
    ],
)
def test_vovnet_detectors_have_the_published_number_of_parameters(
    options: dict[str, Any], published: float
) -> None:
    body = VoVNet(**options)
    assert round(parameters(body, FPN(body.channels, body.strides)) / 1e6, 2) == published


def test_dla_and_mobilenet_detectors_have_the_published_number_of_parameters() -> None:
    dla = DLA()
    assert parameters(dla, FPN(dla.channels, dla.strides, extra_from=None)) == 22_191_880
    mobilenet = MobileNetV2()
    assert parameters(mobilenet, FPN(mobilenet.channels, mobilenet.strides, 128)) == 3_888_090


@pytest.mark.parametrize(
    ("blocks", "layers", "depth"),
    [
        ((1, 1, 1, 1), 3, 19),
        ((1, 1, 1, 1), 5, 27),
        ((1, 1, 2, 2), 5, 39),
        ((1, 1, 4, 3), 5, 57),
        ((1, 2, 6, 3), 5, 75),
        ((1, 3, 8, 3), 5, 93),
        ((1, 3, 9, 3), 5, 99),
    ],
)
def test_the_number_in_a_vovnets_name_counts_its_convolutions(
    blocks: tuple[int, ...], layers: int, depth: int
) -> None:
    narrow = (8, 8, 8, 8)
    model = VoVNet(
        blocks, layers_per_block=layers, stage_widths=narrow, stage_channels=narrow, stem=(8, 8, 8)
    )
    assert sum(isinstance(module, ConvNorm) for module in model.modules()) == depth


def test_one_shot_aggregation_adds_its_input_after_the_last_activation() -> None:
    block = OneShotAggregation(
        8, 4, 8, layers=2, ese=True, identity=True, norm_layer=norm_layer("bn")
    ).eval()
    x = torch.rand(1, 8, 6, 6) - 0.5
    first = block.layers[0](x)
    joined = block.concat.conv(torch.cat([x, first, block.layers[1](first)], dim=1))
    aggregated = F.relu(block.concat.norm(joined))
    gate = F.relu6(block.ese.fc(F.adaptive_avg_pool2d(aggregated, 1)) + 3) / 6
    torch.testing.assert_close(block(x), aggregated * gate + x)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_fusion_is_the_sum_of_all_branches_at_its_resolution(target: int) -> None:
    widths = (4, 8, 16)
    fusion = Fusion(target, widths, norm_layer=norm_layer("bn")).eval()
    branches = [torch.rand(2, width, 16 // 2**i, 24 // 2**i) for i, width in enumerate(widths)]
    kept = [branch.clone() for branch in branches]
    expected = branches[target].clone()
    for source in range(target):
        expected += fusion.down[source](branches[source])
    for source in range(target + 1, 3):
        term = fusion.up[source - target - 1](branches[source])
        expected += F.interpolate(term, scale_factor=2 ** (source - target))
    torch.testing.assert_close(fusion(branches), F.relu(expected))
    assert all(torch.equal(a, b) for a, b in zip(branches, kept, strict=True))


def output_and_saved_bytes(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, int]:
    """The module's output and the size of all that autograd keeps for it beside the inputs."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(*inputs)
    given = {x.untyped_storage().data_ptr() for x in inputs}
    return out, sum(size for storage, size in sizes.items() if storage not in given)


def test_a_joined_convolution_keeps_no_concatenation_and_gives_the_same_gradients() -> None:
    joined = ConcatConvNorm(24, 4, 1, norm_layer=norm_layer("bn")).train()
    plain = ConvNorm(24, 4, 1, norm_layer=norm_layer("bn")).train()
    plain.load_state_dict(joined.state_dict())
    parts = [torch.rand(2, 8, 16, 16, requires_grad=True) for _ in range(3)]
    concatenation = torch.cat(parts, dim=1)

    ours, lean = output_and_saved_bytes(joined, *parts)
    theirs = plain(concatenation)
    assert lean < concatenation.untyped_storage().nbytes()
    torch.testing.assert_close(ours, theirs)

    ours_grads = torch.autograd.grad(ours.square().sum(), [*parts, *joined.parameters()])
    theirs_grads = torch.autograd.grad(theirs.square().sum(), [*parts, *plain.parameters()])
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b)
    assert int(joined.norm.num_batches_tracked) == 1


@pytest.mark.parametrize("size", [(2, 3), (3, 2), (8, 8), (9, 11)])
def test_vovnet_pools_the_same_in_an_exported_graph(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(1, 2, *size)
    expected = vovnet._halve(x)
    monkeypatch.setattr(vovnet, "is_exporting", lambda: True)
    torch.testing.assert_close(vovnet._halve(x), expected, rtol=0, atol=0)
