"""Whole detectors on the card: the original systems' numbers and lower precisions."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from fcos.data.shapes import draw
from fcos.detections import matches
from zoo import golden

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = {fixture.entry: fixture for fixture in golden.find(REPOSITORY / "tests" / "golden")}
IMAGES = REPOSITORY / "benchmarks" / "data" / "coco_val_ccby" / "images"


@pytest.mark.parametrize("entry", FIXTURES)
def test_an_entry_reproduces_the_original_code(device: torch.device, entry: str) -> None:
    fixture = FIXTURES[entry]
    embedded = (IMAGES / fixture.spec["real"]["image"]).exists()
    for check in golden.verify(fixture, IMAGES if embedded else None, device):
        assert check.passed, f"{check.what}: {check.detail}"


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Twenty images of the kind that the embedded weights were trained on."""
    rng = random.Random(0)
    return [draw(rng, 160).image for _ in range(20)]


def shared_detections(ours: list, expected: list, iou: float, score: float) -> float:
    """The share of all detections that both sides have."""
    pairs = [(vars(a), vars(b)) for a, b in zip(ours, expected, strict=True)]
    found = sum(matches(a, b, iou, score) for a, b in pairs)
    return found / max(
        sum(len(a["boxes"]) for a, _ in pairs), sum(len(b["boxes"]) for _, b in pairs)
    )


@pytest.mark.parametrize("batch_size", [1, 20])
def test_fp32_detections_equal_the_cpu_s(
    device: torch.device, photos: list[Image.Image], batch_size: int
) -> None:
    expected = zoo.get("FCOS_shapes_tiny").detect(photos, 0.05, batch_size)
    ours = zoo.get("FCOS_shapes_tiny", device=device).detect(photos, 0.05, batch_size)
    assert shared_detections(ours, expected, iou=0.99, score=1e-3) > 0.99


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_with_fp32(
    device: torch.device, photos: list[Image.Image], precision: str
) -> None:
    expected = zoo.get("FCOS_shapes_tiny", device=device).detect(photos, 0.3)
    detector = zoo.get("FCOS_shapes_tiny", device=device, precision=precision)
    assert shared_detections(detector.detect(photos, 0.3), expected, iou=0.9, score=0.05) > 0.97
