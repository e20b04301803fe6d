"""Decoding a batch on the card against the CPU, from the same outputs of the head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zoo
from fcos.detections import matches
from fcos.head import Level
from fcos.preprocess import ImageBatch

SIZE = 160


def head_outputs(images: int) -> list[Level]:
    """Outputs of the head with hundreds of candidates of each image that overlap much."""
    generator = torch.Generator().manual_seed(0)

    def draw(channels: int, cells: int) -> Tensor:
        return torch.randn(images, channels, cells, cells, generator=generator)

    return [
        Level(
            stride,
            draw(3, SIZE // stride) - 2,
            draw(4, SIZE // stride).exp() * 20,
            draw(1, SIZE // stride),
        )
        for stride in (8, 16, 32)
    ]


@pytest.mark.parametrize("images", [1, 16, 64, 256])
def test_decoding_equals_the_cpu_s(device: torch.device, images: int) -> None:
    detector = zoo.get("FCOS_shapes_tiny")
    levels = head_outputs(images)
    batch = ImageBatch(
        torch.empty(images, 3, SIZE, SIZE), [(SIZE, SIZE)] * images, [(0, 0)] * images
    )
    expected = detector.decode(levels, batch)
    moved = [Level(level.stride, *(t.to(device) for t in level[1:])) for level in levels]
    ours = detector.to(device).decode(moved, batch)
    found = total = 0
    for mine, its in zip(ours, expected, strict=True):
        found += matches({key: value.cpu() for key, value in mine.items()}, its)
        total += max(len(mine["boxes"]), len(its["boxes"]))
    assert total > 20 * images
    assert found / total > 0.999
