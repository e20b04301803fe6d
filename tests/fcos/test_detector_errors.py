"""Bad input gets one clear error that names the image or target at fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fcos import Detector, Head

Build = Callable[..., Detector]
GOOD = torch.zeros(3, 40, 40, dtype=torch.uint8)
NAN = torch.full((3, 40, 40), float("nan"))
TARGET = {"boxes": torch.tensor([[1.0, 2.0, 30.0, 31.0]]), "labels": torch.tensor([0])}

BAD_IMAGES = [
    ([], ValueError, "no images"),
    ([GOOD, GOOD.numpy()], TypeError, r"image 1 is a ndarray; pass \(3, H, W\) tensors"),
    ([GOOD, GOOD[:1]], ValueError, r"image 1 has shape \(1, 40, 40\); expected \(3, H, W\)"),
    ([GOOD.permute(1, 2, 0)], ValueError, r"image 0 has shape \(40, 40, 3\)"),
    ([GOOD[0]], ValueError, r"image 0 has shape \(40, 40\)"),
    ([GOOD[None]], ValueError, r"image 0 has shape \(1, 3, 40, 40\)"),
    ([GOOD[:, :0]], ValueError, r"image 0 is empty: shape \(3, 0, 40\)"),
    ([GOOD.long()], TypeError, "image 0 is torch.int64; expected uint8 0..255 or float 0..1"),
    ([GOOD, NAN], ValueError, "image 1 has NaN or infinite values"),
    ([GOOD / 0.0], ValueError, "image 0 has NaN or infinite values"),
]


@pytest.mark.parametrize(("images", "error", "message"), BAD_IMAGES)
def test_bad_images_are_refused(
    tiny_detector: Build, images: Any, error: type[Exception], message: str
) -> None:
    detector = tiny_detector()
    with pytest.raises(error, match=message):
        detector.eval()(images)
    with pytest.raises(error, match=message):
        detector.train()(images, [TARGET] * len(images))
    if not any(isinstance(image, np.ndarray) for image in images):  # which `detect` takes
        for batch_size in (1, 2):
            with pytest.raises(error, match=message):
                detector.eval().detect(images, batch_size=batch_size)


def with_boxes(*boxes: list[float], labels: Any = None) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes).float(),
        "labels": torch.zeros(len(boxes)).long() if labels is None else labels,
    }


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (None, ValueError, "training needs targets"),
        ([], ValueError, "0 targets for 1 images"),
        ([TARGET, TARGET], ValueError, "2 targets for 1 images"),
        ([TARGET["boxes"]], TypeError, "target 0 is a Tensor; expected {'boxes'"),
        ([{"boxes": TARGET["boxes"]}], ValueError, "target 0 lacks labels"),
        ([{}], ValueError, "target 0 lacks boxes and labels"),
        (
            [{"boxes": [[1, 2, 3, 4]], "labels": [0]}],
            TypeError,
            "labels of target 0 must be tensors",
        ),
        ([with_boxes([1, 2, 3])], ValueError, r"boxes of target 0 have shape \(1, 3\)"),
        (
            [{"boxes": torch.zeros(4), "labels": torch.zeros(1).long()}],
            ValueError,
            r"boxes of target 0 have shape \(4,\); expected \(n, 4\)",
        ),
        (
            [with_boxes([1, 2, 3, 4], labels=torch.zeros(2).long())],
            ValueError,
            r"target 0 has 1 boxes but labels of shape \(2,\)",
        ),
        (
            [with_boxes([1, 2, 3, 4], labels=torch.zeros(1))],
            TypeError,
            "labels of target 0 are torch.float32; expected int64",
        ),
        ([with_boxes([1, 2, 1, 4])], ValueError, "box 0 of target 0 has no area"),
        ([with_boxes([1, 2, 3, 4], [1, 9, 3, 4])], ValueError, "box 1 of target 0 has no area"),
        ([with_boxes([1, 2, float("nan"), 4])], ValueError, "boxes of target 0 hold NaN"),
        (
            [with_boxes([1, 2, 3, 4], labels=torch.tensor([3]))],
            ValueError,
            "labels of target 0 run from 3 to 3; this detector has classes 0 to 2",
        ),
        ([with_boxes([1, 2, 3, 4], labels=torch.tensor([-1]))], ValueError, "run from -1 to -1"),
    ],
)
def test_bad_targets_are_refused(
    tiny_detector: Build, targets: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny_detector().train()([GOOD], targets)


def test_parts_that_do_not_fit_are_refused(tiny_detector: Build) -> None:
    with pytest.raises(ValueError, match="quality=None, but the head has a quality branch"):
        tiny_detector(loss={"quality": None})
    parts = vars(tiny_detector())
    modules, plain = parts["_modules"], ("resize", "assigner", "decoder", "classes")
    modules["head"] = Head((4, 8, 16), 3, 32)
    with pytest.raises(ValueError, match=r"head of strides \(4, 8, 16\) for .* \(8, 16, 32\)"):
        Detector(**modules, **{key: parts[key] for key in plain})


def test_detecting_needs_the_eval_mode(tiny_detector: Build) -> None:
    detector = tiny_detector().train()
    for detect in (detector.detect, detector.find):
        with pytest.raises(RuntimeError, match=r"in training mode: call `detector\.eval"):
            detect([GOOD])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"score_threshold": 50}, "score_threshold must be from 0 to 1, not 50"),
        ({"score_threshold": float("nan")}, "score_threshold must be from 0 to 1, not nan"),
    ],
)
def test_options_that_detect_nothing_are_refused(
    tiny_detector: Build, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_detector().eval().detect(GOOD, **options)
