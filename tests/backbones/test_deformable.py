"""Deformable convolution: our sampling on CPUs beside torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backbones import deformable
from backbones.deformable import DeformConv2d


def layer(kernel_size: int = 3, stride: int = 1, groups: int = 1, spread: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    conv = DeformConv2d(
        8, 12, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups
    ).eval()
    nn.init.normal_(conv.offset.weight, std=spread)
    return conv


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    images=st.integers(1, 3),
    kernel_size=st.sampled_from((1, 3, 5)),
    stride=st.sampled_from((1, 2)),
    groups=st.sampled_from((1, 2, 4)),
    spread=st.sampled_from((0.0, 0.1, 1.0, 30.0)),  # of the offsets: up to far outside of the map
)
def test_lookup_matches_the_torchvision_kernel(
    size: tuple[int, int], images: int, kernel_size: int, stride: int, groups: int, spread: float
) -> None:
    conv = layer(kernel_size, stride, groups, spread)
    x = torch.randn(images, 8, *size)
    with torch.no_grad():
        ours = conv(x)
    kernel = conv(x)
    assert kernel.grad_fn is not None
    torch.testing.assert_close(ours, kernel, rtol=1e-4, atol=1e-4)


def test_without_offsets_and_with_open_masks_it_is_the_plain_convolution() -> None:
    conv = layer(spread=0.0)
    conv.offset.bias.data[18:] = 100.0
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        plain = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(conv(x), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_a_diverged_network_gives_nonsense_but_no_crash(value: float) -> None:
    conv = layer()
    x = torch.randn(1, 8, 6, 6)
    x[0, 0, 3, 3] = value
    with torch.no_grad():
        assert conv(x).shape == (1, 12, 6, 6)


def test_in_bf16_samples_are_taken_in_float32() -> None:
    conv = layer(spread=0.1)
    x = torch.randn(1, 8, 16, 16).bfloat16()
    with torch.no_grad():
        exact = conv(x.float())
        rounded = conv.bfloat16()(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)


def test_bands_give_the_same_result_as_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = layer(), torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        at_once = conv(x)
        monkeypatch.setattr(deformable, "BAND_BYTES", 1)
        torch.testing.assert_close(conv(x), at_once)


def test_compiled_it_is_one_graph_for_maps_of_all_sizes() -> None:
    conv, graphs = layer(), []

    def count(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(conv, backend=count, dynamic=True, fullgraph=True)
    with torch.no_grad():
        for size in ((16, 12), (13, 20), (30, 9)):
            x = torch.randn(2, 8, *size)
            torch.testing.assert_close(compiled(x), conv(x))
    assert len(graphs) == 1
