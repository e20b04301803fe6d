"""The detector follows torchvision's convention, in training and in use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fcos import Detections, Detector, ImageNormalizer, LongestSide, ShortestSide
from fcos.preprocess import resize_image

Build = Callable[..., Detector]


def test_training_gives_scalar_losses(
    tiny_detector: Build, picture: Tensor, target: dict[str, Tensor]
) -> None:
    losses = tiny_detector().train()([picture], [target])
    assert list(losses) == ["loss_cls", "loss_box", "loss_quality"]
    assert all(loss.ndim == 0 and bool(loss > 0) for loss in losses.values())
    plain = tiny_detector(head={"quality_on": None}, loss={"quality": None}).train()
    assert list(plain([picture], [target])) == ["loss_cls", "loss_box"]


@pytest.mark.parametrize("count", [0, 1, 200])
def test_gradients_reach_every_parameter(tiny_detector: Build, picture: Tensor, count: int) -> None:
    detector = tiny_detector(head={"box": "exp"}).train()
    corners = torch.rand(count, 2) * 40
    boxes = torch.cat((corners, corners + 5 + torch.rand(count, 2) * 45), dim=1)
    target = {"boxes": boxes, "labels": torch.randint(0, 3, (count,))}
    losses = detector([picture, picture], [target, target])
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_evaluation_gives_boxes_best_first(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector().eval()
    results = detector([picture, picture[:, :40, :50]])
    assert len(results) == 2
    for result, (height, width) in zip(results, [(60, 90), (40, 50)], strict=True):
        n = len(result["scores"])
        assert n > 0
        assert result["boxes"].shape == (n, 4)
        assert result["labels"].dtype == torch.int64
        assert result["scores"].tolist() == sorted(result["scores"].tolist(), reverse=True)
        x1, y1, x2, y2 = result["boxes"].unbind(1)
        assert float(x2.max()) <= width
        assert float(y2.max()) <= height
        assert float(torch.minimum(x1, y1).min()) >= 0
        assert not result["boxes"].requires_grad


def test_levels_are_the_heads_raw_outputs(tiny_detector: Build, picture: Tensor) -> None:
    levels = tiny_detector().eval().levels([picture])
    assert [level.stride for level in levels] == [8, 16, 32]
    assert [tuple(level.logits.shape) for level in levels] == [
        (1, 3, 8, 12),
        (1, 3, 4, 6),
        (1, 3, 2, 3),
    ]
    assert all(level.ltrb.shape[1] == 4 and level.quality.shape[1] == 1 for level in levels)


def test_padding_neither_learns_nor_detects_where_it_is_ignored(
    tiny_detector: Build, picture: Tensor, target: dict[str, Tensor]
) -> None:
    square = ImageNormalizer([0.0] * 3, [100.0] * 3, divisor=32, square=True)
    options = {"normalizer": square, "point_offset": 0.0, "decoder": {"clip": "before"}}
    plain, ignoring = (tiny_detector(ignore_padding=i, **options) for i in (False, True))
    wide = picture[:, :20]
    target = {"boxes": torch.tensor([[1.0, 1.0, 60.0, 19.0]]), "labels": torch.tensor([1])}
    everywhere = plain.train()([wide], [target])["loss_cls"]
    inside = ignoring.train()([wide], [target])["loss_cls"]
    assert float(inside.detach()) < float(everywhere.detach())
    # The same view as an image of its own: only its target can tell what is padding.
    view = ignoring.normalizer([wide])
    (top, left), side = view.offsets[0], view.tensor.shape[-1]
    padded = torch.zeros(3, side, side, dtype=torch.uint8)
    padded[:, top : top + 20, left : left + 90] = wide
    shift, place = torch.tensor([left, top] * 2), torch.tensor([left, top, left + 90, top + 20])
    labelled = {**target, "boxes": target["boxes"] + shift, "picture": place}
    torch.testing.assert_close(ignoring([padded], [labelled])["loss_cls"], inside)
    found = ignoring.eval()([wide])[0]
    assert 0 < len(found["scores"]) < len(plain.eval()([wide])[0]["scores"])


def test_targets_move_with_a_centred_image(tiny_detector: Build, picture: Tensor) -> None:
    square = ImageNormalizer([0.0] * 3, [100.0] * 3, divisor=32, square=True)
    detector = tiny_detector(normalizer=square, point_offset=0.0)
    batch = detector.normalizer([picture])
    (top, left), boxes = batch.offsets[0], torch.tensor([[8.0, 8.0, 72.0, 48.0]])
    points = detector.points(detector.network(batch), batch)
    placed = detector.place([{"boxes": boxes, "labels": torch.tensor([0])}], batch.offsets)
    assigned = detector.assign(points, placed)[0]
    learned = assigned.labels >= 0
    found = torch.cat(points)[learned] - assigned.ltrb[learned][:, :2]
    assert bool(learned.any())
    assert found.unique(dim=0).tolist() == [[8.0 + left, 8.0 + top]]


def test_detect_takes_every_form_of_image(
    tiny_detector: Build, picture: Tensor, tmp_path: Path
) -> None:
    detector = tiny_detector().eval()
    array = picture.permute(1, 2, 0).numpy()
    pil, path = Image.fromarray(array), tmp_path / "picture.png"
    pil.save(path)
    expected = detector.detect(picture)[0]
    forms: list[Any] = [path, [path, str(path)], pil, [pil], array, [array], [picture]]
    batches = (picture[None], torch.stack([picture, picture]), np.stack([array, array]))
    for form in (*forms, *batches):
        for found in detector.detect(form):
            assert isinstance(found, Detections)
            assert torch.equal(found.boxes, expected.boxes)
            assert torch.equal(found.scores, expected.scores)


def test_detect_gives_boxes_in_pixels_of_the_image(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector(resize=ShortestSide(120, 1000)).eval()
    found = detector.detect(picture)[0]
    as_fed = detector([resize_image(picture, (120, 180))])[0]
    torch.testing.assert_close(found.boxes, as_fed["boxes"] / 2)
    assert torch.equal(found.scores, as_fed["scores"])
    found.boxes[:, 2:] -= found.boxes[:, :2]  # unlike tensors of inference mode


def test_detect_applies_the_score_threshold(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector().eval()
    every = detector.detect(picture)[0]
    threshold = float(every.scores[len(every) // 2])
    some = detector.detect(picture, score_threshold=threshold)[0]
    assert 0 < len(some) < len(every)
    assert float(some.scores.min()) >= threshold
    assert some.names == [detector.classes[label] for label in some.labels.tolist()]
    nothing = detector.detect(picture, score_threshold=1.0)[0]
    assert nothing.boxes.shape == (0, 4)
    assert nothing.names == []


@pytest.mark.parametrize("resize", [ShortestSide(64, 96), LongestSide(97)])
def test_batches_give_the_same_detections_as_single_images(
    tiny_detector: Build, picture: Tensor, resize: ShortestSide | LongestSide
) -> None:
    detector = tiny_detector(resize=resize).eval()
    pictures = [picture, picture.flip(2), picture.flip(1)]
    single = detector.detect(pictures)
    for ours, theirs in zip(detector.detect(pictures, batch_size=2), single, strict=True):
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-3, atol=1e-2)


def test_detect_refuses_a_detector_in_training_mode(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector().train()
    statistics = detector.backbone.coarse.norm.running_mean.clone()
    with pytest.raises(RuntimeError, match=r"call `detector\.eval\(\)`"):
        detector.detect(picture)
    assert detector.training
    assert torch.equal(detector.backbone.coarse.norm.running_mean, statistics)


def test_threads_share_a_detector(tiny_detector: Build, picture: Tensor) -> None:
    detector = tiny_detector().eval()
    images = [picture, picture.flip(1), picture.flip(2), picture // 2]
    expected = detector.detect(images)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: detector.detect(image)[0], images * 3))
    for detections, alone in zip(results, expected * 3, strict=True):
        assert torch.equal(detections.boxes, alone.boxes)
        assert torch.equal(detections.scores, alone.scores)


def test_as_many_class_names_as_classes(tiny_detector: Build) -> None:
    detector = tiny_detector()
    parts = {
        key: getattr(detector, key)
        for key in ("normalizer", "resize", "assigner", "loss", "decoder")
    }
    with pytest.raises(ValueError, match="2 class names for a head of 3 classes"):
        Detector(detector.backbone, detector.pyramid, detector.head, **parts, classes=("a", "b"))


@pytest.mark.parametrize("square", [False, True])
def test_gradients_reach_the_pixels_of_each_image(
    tiny_detector: Build, picture: Tensor, square: bool
) -> None:
    """As saliency maps and adversarial images need them."""
    normalizer = ImageNormalizer([0.0] * 3, [100.0] * 3, divisor=32, square=square)
    detector = tiny_detector(normalizer=normalizer).eval()
    images = [(picture / 255).requires_grad_(), (picture[:, :, :50] / 255).requires_grad_()]
    detector.levels(images)[0].logits.sum().backward()
    batch = normalizer([image.detach() for image in images])
    batch.tensor.requires_grad_()
    detector.network(batch)[0].logits.sum().backward()
    for image, of_input, (top, left) in zip(images, batch.tensor.grad, batch.offsets, strict=True):
        _, height, width = image.shape
        inside = of_input[:, top : top + height, left : left + width]
        expected = (inside * 255 / normalizer.std).flip(0)  # BGR
        torch.testing.assert_close(image.grad, expected)
        assert image.grad.any()
