"""Test-time augmentation against the published rule, spelled out copy by copy and box by box."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from literal_nms import Found, clipped, suppress
from torch import Tensor

from fcos import (
    TTA_MULTI_SCALE,
    Augmentation,
    Detector,
    ImageNormalizer,
    LongestSide,
    ShortestSide,
)
from fcos.preprocess import resize_image

Build = Callable[..., Detector]
TTA = (Augmentation(flip=True), Augmentation(0.5, 1.5), Augmentation(1.5, 1.5, flip=True))


def candidates(detector: Detector, image: Tensor) -> Found:
    """Everything over the threshold in an image as fed, neither suppressed nor clipped."""
    every = copy.deepcopy(detector)
    every.decoder.nms_threshold, every.decoder.max_detections = 2.0, None
    every.decoder.clip = "never"  # type: ignore[assignment]
    found = every([image])[0]
    lists = (found[key].tolist() for key in ("labels", "scores", "boxes"))
    return list(zip(*lists, strict=True))


def one_by_one(detector: Detector, image: Tensor, copies: list[tuple[int, int, bool]]) -> Found:
    """Detections in copies of (height, width, flip), in the image's pixels."""
    plus_one = int(detector.decoder.plus_one)
    first_height, first_width, _ = copies[0]
    seen = []
    for height, width, flip in copies:
        resized = resize_image(image, (height, width))
        for label, score, box in candidates(detector, resized.flip(-1) if flip else resized):
            if detector.decoder.clip == "before":
                box = clipped(box, (width - plus_one, height - plus_one))
            x1, y1, x2, y2 = box
            if flip:
                x1, x2 = width - plus_one - x2, width - plus_one - x1
            fx, fy = first_width / width, first_height / height
            seen.append((label, score, [x1 * fx, y1 * fy, x2 * fx, y2 * fy]))
    seen.sort(key=lambda row: -row[1])
    decoder = detector.decoder
    kept = suppress(seen, decoder.nms_threshold, decoder.plus_one, decoder.class_agnostic)
    height, width = image.shape[-2:]
    fx, fy = width / first_width, height / first_height
    found = []
    for label, score, (x1, y1, x2, y2) in kept[: decoder.max_detections]:
        box = [x1 * fx, y1 * fy, x2 * fx, y2 * fy]
        if decoder.clip == "after":
            box = clipped(box, (width, height))
            if box[0] >= box[2] or box[1] >= box[3]:
                continue
        found.append((label, score, box))
    return found


# The published systems differ in their borders and sides of boxes, and in the padded square.
RULES: dict[str, dict[str, Any]] = {
    "maskrcnn-benchmark": {"decoder": {"plus_one": True, "clip": "before", "max_detections": 60}},
    "detectron2": {"decoder": {"plus_one": False, "clip": "after", "max_detections": 60}},
    "locations": {"decoder": {"top_k": 20, "top_k_of": "locations", "max_detections": 60}},
    "square": {
        "decoder": {"class_agnostic": True, "max_candidates": 80, "max_detections": 60},
        "normalizer": ImageNormalizer([0.5] * 3, [0.2] * 3, "RGB", 1, divisor=32, square=True),
        "resize": LongestSide(96),
        "ignore_padding": True,
        "point_offset": 0.0,
    },
}


@pytest.mark.parametrize("rule", RULES)
def test_the_candidates_of_all_copies_share_one_nms(
    tiny_detector: Build, picture: Tensor, rule: str
) -> None:
    detector = tiny_detector(**{"resize": ShortestSide(64, 96), **RULES[rule]}).eval()
    copies = [(64, 96, False), (64, 96, True), (32, 48, False), (96, 144, True)]

    # A generator holds for every image.
    found = detector.detect([picture, picture], tta=(copy for copy in TTA))[1]  # type: ignore[arg-type]
    expected = one_by_one(detector, picture, copies)

    assert len(expected) > 10
    assert found.labels.tolist() == [label for label, _, _ in expected]
    scores = torch.tensor([score for _, score, _ in expected])
    boxes = torch.tensor([box for _, _, box in expected])
    torch.testing.assert_close(found.scores, scores)
    torch.testing.assert_close(found.boxes, boxes, atol=1e-3, rtol=1e-4)


def test_images_of_a_batch_do_not_mix(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector(normalizer=None).eval()
    pair = [picture, picture.flip(-2)]
    together = detector.detect(pair, batch_size=2, tta=TTA)
    for image, batched in zip(pair, together, strict=True):
        single = detector.detect(image, tta=TTA)[0]
        torch.testing.assert_close(batched.boxes, single.boxes, atol=1e-3, rtol=1e-4)
        assert batched.names == single.names


def test_the_published_sizes() -> None:
    rule = ShortestSide(800, 1333)
    scaled = [rule.scaled(each.scale, each.limit) for each in TTA_MULTI_SCALE]
    published = [(800, 1333)] + [
        (size, 2000)
        for size in (400, 500, 600, 700, 900, 1000, 1100, 1200)
        for _ in ("plain", "flipped")
    ]
    assert [(one.size, one.longest) for one in scaled] == published
    assert [each.flip for each in TTA_MULTI_SCALE] == [True] + [False, True] * 8


def test_the_longest_side_is_scaled_within_its_limit() -> None:
    assert LongestSide(1025).scaled(1.5, 1.5) == LongestSide(1538)
    assert LongestSide(100).scaled(1.5, 1.2) == LongestSide(120)
