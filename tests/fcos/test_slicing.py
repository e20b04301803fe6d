"""Detecting in overlapping tiles: what is cut at an edge is found whole, and only once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fcos import Detections, Detector
from fcos.slicing import detect_sliced, merge, tile_corners


@pytest.mark.parametrize("side", [64, 65, 100, 640, 1000])
def test_tiles_cover_the_image_and_overlap(side: int) -> None:
    corners = tile_corners((64, side), 64)
    assert {y for y, _ in corners} == {0}
    starts = [x for _, x in corners]
    assert (starts[0], starts[-1]) == (0, side - 64)
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= 0.8 * 64 for step in steps)


def test_an_image_of_one_tile_is_detected_in_as_ever(
    tiny_detector: Callable[..., Detector], picture: Tensor
) -> None:
    detector = tiny_detector().eval()
    sliced, whole = detect_sliced(detector, picture, 90), detector.detect(picture)[0]
    assert torch.equal(sliced.boxes, whole.boxes)
    assert torch.equal(sliced.scores, whole.scores)


def test_images_of_other_kinds_are_cut_into_the_same_tiles(
    tiny_detector: Callable[..., Detector], picture: Tensor
) -> None:
    detector = tiny_detector().eval()
    array = picture.permute(1, 2, 0).numpy()
    of_array, of_tensor = detect_sliced(detector, array, 40), detect_sliced(detector, picture, 40)
    assert torch.equal(of_array.boxes, of_tensor.boxes)


class Squares:
    """Finds each bright square: it stands for a detector that is never wrong."""

    def __init__(self, detector: Detector) -> None:
        self.decoder = detector.decoder

    def detect(self, images: object, *options: object, **more: object) -> list[Detections]:
        images = [images] if isinstance(images, Tensor) else images
        return [self.find(image) for image in images]  # type: ignore[attr-defined]

    def find(self, image: Tensor) -> Detections:
        boxes = []
        for value in image.unique().tolist()[1:]:
            y, x = (image[0] == value).nonzero(as_tuple=True)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        number = len(boxes)
        shape = torch.tensor(boxes).float().reshape(-1, 4)
        scores = torch.linspace(0.9, 0.5, max(1, number))[:number]
        return Detections(shape, scores, torch.zeros(number).long(), ["square"] * number, image)


def test_objects_across_the_edges_of_tiles_are_found_once_and_whole(
    tiny_detector: Callable[..., Detector],
) -> None:
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    squares = [(10, 10, 30, 30), (70, 40, 110, 60), (140, 60, 260, 180), (290, 190, 300, 200)]
    for value, (x1, y1, x2, y2) in enumerate(squares, 1):
        image[:, y1:y2, x1:x2] = value
    detector = Squares(tiny_detector())
    found = detect_sliced(detector, image, 100)  # type: ignore[arg-type]
    assert sorted(map(tuple, found.boxes.tolist())) == squares
    assert torch.equal(found.image, image)


def test_a_cut_box_remains_where_no_whole_box_covers_it(
    tiny_detector: Callable[..., Detector],
) -> None:
    found = Detections(
        boxes=torch.tensor([[0.0, 0, 60, 60], [0, 0, 30, 60], [200, 0, 230, 60], [0, 0, 30, 60]]),
        scores=torch.tensor([0.5, 0.9, 0.8, 0.7]),
        labels=torch.tensor([0, 0, 0, 1]),
        names=["a", "a", "a", "b"],
        image=torch.zeros(3, 60, 300, dtype=torch.uint8),
    )
    merged = merge(tiny_detector(), found, torch.tensor([False, True, True, True]))
    assert merged.scores.tolist() == pytest.approx([0.8, 0.7, 0.5])


def test_a_tile_has_a_size() -> None:
    with pytest.raises(ValueError, match="at least one pixel, not 0"):
        tile_corners((10, 10), 0)
