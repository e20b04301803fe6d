"""Augmentation: pixels and boxes move together, by each published system's rules."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.data.transforms import Compose, HorizontalFlip, ResizeShortestSide, SquareView, with_boxes
from fcos.images import resize_image


def sample(height=60, width=80, boxes=((10, 20, 30, 50),)):
    """A noisy image with uniform white boxes, and its target."""
    image = torch.randint(0, 100, (3, height, width), dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 255
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.arange(len(boxes)),
        "image_id": 7,
    }


def extent(image):
    """The box of the white pixels."""
    white = (image > 200).all(0)
    columns, rows = white.any(0).nonzero().flatten(), white.any(1).nonzero().flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


sides = st.integers(8, 120)


@settings(deadline=None)
@given(sides, sides, st.randoms(use_true_random=False))
def test_a_resized_image_follows_the_published_rounding(height, width, rng):
    image, target = sample(height, width, [(0, 0, width, height)])
    resized, target = ResizeShortestSide((40,), 66)(image, target, rng)
    to = tuple(resized.shape[1:])
    assert max(to) <= 66
    assert min(to) == 40 or max(to) == 66
    assert target["boxes"][0].tolist() == pytest.approx([0, 0, to[1], to[0]])
    assert torch.equal(resized, resize_image(image, to))


def test_boxes_are_where_the_objects_are_after_a_resize():
    image, target = sample()
    resized, target = ResizeShortestSide((120,), 1333)(image, target, random.Random(0))
    assert resized.shape == (3, 120, 160)
    assert (extent(resized) - target["boxes"][0]).abs().max() <= 1


def test_sizes_are_chosen_from_a_list_or_a_range():
    rng = random.Random(0)

    def heights(transform):
        return {transform(*sample(10, 20), rng)[0].shape[1] for _ in range(60)}

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
    assert torch.equal(extent(mirrored), moved["boxes"][0])
    back, restored = flip(mirrored, moved, rng)
    assert torch.equal(back, image)
    assert torch.equal(restored["boxes"], target["boxes"])


def test_flipping_boxes_that_end_on_their_last_pixel():
    image, target = sample(60, 80, [(0, 20, 9, 50)])  # the ten pixels 0..9
    _, moved = HorizontalFlip(1.0, plus_one=True)(image, target, random.Random(0))
    assert moved["boxes"].tolist() == [[70, 20, 79, 50]]  # the ten pixels 70..79


def test_flipping_happens_as_often_as_asked():
    image, target = sample()
    rng = random.Random(0)
    flips = sum(
        not torch.equal(HorizontalFlip(0.25)(image, target, rng)[0], image) for _ in range(400)
    )
    assert 70 < flips < 130


def test_a_square_view_in_the_middle():
    image, target = sample(60, 80)
    view, target = SquareView(161, probability=0)(image, target, random.Random(0))
    assert view.shape == (3, 161, 161)
    assert view[:, :20].max() == 0  # 161 - int(60 * 161 / 80 + 0.5) = 40 free rows
    assert view[:, 20:141].float().mean() > 40
    assert (extent(view) - target["boxes"][0]).abs().max() <= 1


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_square_view_of_random_scale_and_place(rng):
    image, target = sample(80, 50)
    view, target = SquareView(161, probability=1)(image, target, rng)
    rows = (view > 0).any(0).any(1).sum()
    assert 0.8 * 161 - 1 <= rows <= 161
    assert (extent(view) - target["boxes"][0]).abs().max() <= 1.5


def test_a_square_view_keeps_boxes_off_the_edge_and_drops_tiny_ones():
    image, target = sample(80, 80, [(0, 0, 80, 80), (10, 10, 15, 16), (20, 20, 25, 27)])
    _, target = SquareView(80, probability=0)(image, target, random.Random(0))
    assert target["boxes"].tolist() == [[1, 1, 79, 79], [20, 20, 25, 27]]  # 30 < 32 <= 35
    assert target["labels"].tolist() == [0, 2]


def test_boxes_that_lose_their_area_are_dropped():
    _, target = sample(boxes=[(0, 0, 5, 5), (9, 9, 20, 20)])
    kept = with_boxes(target, torch.tensor([[1.0, 1, 1, 4], [2, 2, 3, 3]]))
    assert (kept["boxes"].tolist(), kept["labels"].tolist(), kept["image_id"]) == (
        [[2, 2, 3, 3]],
        [1],
        7,
    )


def test_images_without_objects_pass_through_everything():
    image, target = sample()
    target = with_boxes(target, torch.zeros(1, 4))
    every = Compose([ResizeShortestSide((40,)), HorizontalFlip(1.0), SquareView(65)])
    view, target = every(image, target, random.Random(0))
    assert view.shape == (3, 65, 65)
    assert (target["boxes"].shape, target["labels"].shape) == ((0, 4), (0,))


def test_the_same_random_state_gives_the_same_sample():
    image, target = sample()
    every = Compose(
        [ResizeShortestSide((40, 90), sample="range"), HorizontalFlip(), SquareView(65)]
    )
    first, again = (every(image, target, random.Random("3/17")) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["boxes"], again[1]["boxes"])
