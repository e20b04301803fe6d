"""How often the host waits for the card, which then has nothing to do until more work arrives."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import zoo
from fcos import Detector
from fcos.data.shapes import draw
from fcos.images import load_image

IMAGES = 8


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Collect a line for each operation that makes the host wait for the card."""
    waits: list[str] = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
            waits += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


@pytest.fixture
def detector(device: torch.device) -> Detector:
    if device.type != "cuda":
        pytest.skip("the host never waits for a CPU")
    return zoo.get("FCOS_shapes_tiny", device=device)


def test_detecting_waits_once_an_image_and_twice_a_batch(detector: Detector) -> None:
    """NMS of an image is one wait; the numbers of candidates and of detections are the others."""
    rng = random.Random(0)
    images = [load_image(draw(rng, 160).image).to("cuda") for _ in range(IMAGES)]
    with torch.inference_mode():
        detector.find(images)  # the first call also loads kernels
        with counted_waits() as waits:
            detector.find(images)
    assert len(waits) <= 2 + IMAGES, waits


def test_a_training_step_hardly_waits(detector: Detector) -> None:
    detector.train()
    images = [torch.randint(0, 256, (3, 160, 160), dtype=torch.uint8).pin_memory()] * IMAGES
    boxes, labels = torch.tensor([[10.0, 10.0, 90.0, 120.0]]), torch.tensor([1])
    targets = [{"boxes": boxes.pin_memory(), "labels": labels.pin_memory()}] * IMAGES

    def step() -> None:
        losses = detector(images, targets)
        assert isinstance(losses, dict)
        torch.stack(list(losses.values())).sum().backward()

    step()
    with counted_waits() as waits:
        step()
    assert len(waits) <= 2, waits  # to select the positive locations
