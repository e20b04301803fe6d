"""Augmentation: pixels and boxes move together, by each published system's rules."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos.data.transforms import (
    Compose,
    HorizontalFlip,
    ResizeShortestSide,
    SquareView,
    build_transforms,
    with_boxes,
)
from fcos.preprocess import resize_image


def sample(height=60, width=80, boxes=((10, 20, 30, 50),)):
    """A noisy image with uniform white boxes, and its target."""
    pixels = np.random.default_rng(0).integers(0, 100, (height, width, 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = 255
    labels = np.arange(len(boxes))
    target = {"boxes": np.array(boxes, dtype=np.float32), "labels": labels, "image_id": 7}
    return Image.fromarray(pixels), target


def extent(image):
    """The box of the white pixels."""
    white = (np.asarray(image) > 200).all(axis=2)
    columns, rows = np.flatnonzero(white.any(axis=0)), np.flatnonzero(white.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def same(image, other):
    return np.array_equal(np.asarray(image), np.asarray(other))


sides = st.integers(8, 120)


@settings(deadline=None)
@given(sides, sides, st.sampled_from(["pil", "opencv"]), st.randoms(use_true_random=False))
def test_training_resizes_as_the_detectors_test_time_does(height, width, method, rng):
    image, target = sample(height, width, [(0, 0, width, height)])
    resize = ResizeShortestSide((40,), 66, antialias=method == "pil")
    resized, target = resize(image, target, rng)
    assert max(resized.size) <= 66
    assert min(resized.size) == 40 or max(resized.size) == 66
    assert target["boxes"][0].tolist() == pytest.approx([0, 0, *resized.size])
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    tested = resize_image(tensor, (resized.height, resized.width), method)
    assert same(resized, tested.permute(1, 2, 0))


@pytest.mark.parametrize(
    ("method", "antialias"), [("pil", True), ("antialias", True), ("opencv", False)]
)
def test_training_is_antialiased_where_the_detector_is(method, antialias):
    transforms = build_transforms(
        {
            "augmentation": {"shortest": [40], "longest": 66},
            "data": {"flip": 0.0, "plus_one": False},
            "resize": {},
            "detector": {"resize_method": method},
        }
    )
    image, target = sample()
    resized, _ = transforms(image, target, random.Random(0))
    expected, _ = ResizeShortestSide((40,), 66, antialias=antialias)(image, target, random.Random())
    assert same(resized, expected)


def test_sizes_are_chosen_from_a_list_or_a_range():
    rng = random.Random(0)

    def heights(transform):
        return {transform(*sample(10, 20), rng)[0].height for _ in range(60)}

    assert heights(ResizeShortestSide((16, 24, 32), 1333)) == {16, 24, 32}
    ranged = heights(ResizeShortestSide((16, 32), 1333, sample="range"))
    assert len(ranged) > 10
    assert (min(ranged), max(ranged)) == (16, 32)
    with pytest.raises(ValueError, match="do not suit"):
        ResizeShortestSide((800,), sample="range")


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 40))
def test_flipping_moves_boxes_with_the_pixels_and_twice_is_nothing(left, size):
    image, target = sample(50, 90, [(left, 5, left + size, 25)])
    flip, rng = HorizontalFlip(1.0), random.Random(0)
    mirrored, moved = flip(image, target, rng)
    assert extent(mirrored).tolist() == moved["boxes"][0].tolist()
    back, restored = flip(mirrored, moved, rng)
    assert same(back, image)
    assert restored["boxes"].tolist() == target["boxes"].tolist()


def test_flipping_happens_as_often_as_asked():
    image, target = sample()
    flip, rng = HorizontalFlip(0.25), random.Random(0)
    flips = sum(not same(flip(image, target, rng)[0], image) for _ in range(400))
    assert 70 < flips < 130


def test_flipping_first_gives_the_same_pixels_and_boxes():
    """It costs less, the image being smaller; the published systems flip after the resize."""
    flip, resize = HorizontalFlip(1.0), ResizeShortestSide((131,), 1333)
    before = Compose([flip, resize])(*sample(), random.Random(0))
    after = Compose([resize, flip])(*sample(), random.Random(0))
    assert same(before[0], after[0])
    assert before[1]["boxes"] == pytest.approx(after[1]["boxes"], abs=1e-4)


def test_boxes_that_end_on_their_last_pixel_are_mirrored_after_the_resize():
    image, target = sample(60, 80, [(0, 20, 9, 50)])  # the ten pixels 0..9
    _, moved = HorizontalFlip(1.0, plus_one=True)(image, target, random.Random(0))
    assert moved["boxes"].tolist() == [[70, 20, 79, 50]]  # the ten pixels 70..79
    flip, resize = HorizontalFlip(1.0, plus_one=True), ResizeShortestSide((120,), 1333)
    _, target = Compose([resize, flip])(*sample(60, 80), random.Random(0))
    assert target["boxes"].tolist() == [[160 - 60 - 1, 40, 160 - 20 - 1, 100]]
    _, other = Compose([flip, resize])(*sample(60, 80), random.Random(0))
    assert other["boxes"][0, 0] == target["boxes"][0, 0] - 1


def test_a_square_view_in_the_middle():
    view, target = SquareView(161, probability=0)(*sample(60, 80), random.Random(0))
    assert view.size == (161, 161)
    rows = np.asarray(view).reshape(161, -1)
    assert rows[:20].max() == 0  # 161 - int(60 * 161 / 80 + 0.5) = 40 free rows
    assert rows[20:141].max(axis=1).min() > 0
    assert np.abs(extent(view) - target["boxes"][0]).max() <= 1


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_square_view_of_random_scale_and_place(rng):
    view, target = SquareView(161, probability=1)(*sample(80, 50), rng)
    rows = (np.asarray(view) > 0).any(axis=(1, 2)).sum()
    assert 0.8 * 161 - 1 <= rows <= 161
    assert np.abs(extent(view) - target["boxes"][0]).max() <= 1.5


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_square_view_gives_the_position_of_the_image(rng):
    view, target = SquareView(161)(Image.new("RGB", (50, 80), "white"), sample(80, 50)[1], rng)
    assert target["picture"].tolist() == extent(view).tolist()


def test_a_square_view_keeps_boxes_off_the_edge_and_drops_tiny_ones():
    image, target = sample(80, 80, [(0, 0, 80, 80), (10, 10, 15, 16), (20, 20, 25, 27)])
    _, target = SquareView(80, probability=0)(image, target, random.Random(0))
    assert target["boxes"].tolist() == [[1, 1, 79, 79], [20, 20, 25, 27]]  # 30 < 32 <= 35
    assert target["labels"].tolist() == [0, 2]


def test_boxes_that_lose_their_area_are_dropped():
    _, target = sample(boxes=[(0, 0, 5, 5), (9, 9, 20, 20)])
    kept = with_boxes(target, np.array([[1, 1, 1, 4], [2, 2, 3, 3]]))
    assert (kept["boxes"].tolist(), kept["labels"].tolist()) == ([[2, 2, 3, 3]], [1])
    assert kept["image_id"] == 7


def test_images_without_objects_pass_through_everything():
    image, target = sample()
    target = with_boxes(target, np.zeros((1, 4)))
    every = Compose([ResizeShortestSide((40,)), HorizontalFlip(1.0), SquareView(65)])
    view, target = every(image, target, random.Random(0))
    assert view.size == (65, 65)
    assert (target["boxes"].shape, target["labels"].shape) == ((0, 4), (0,))
