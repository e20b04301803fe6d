"""Post-processing against the published rules, spelled out candidate by candidate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from literal_nms import Found, clipped, suppress
from torch import Tensor
from torchvision.ops import nms

from fcos import Decoder, Level, postprocess
from fcos.boxes import level_points
from fcos.postprocess import Candidates
from fcos.preprocess import ImageBatch

STRIDES, SIZES, CLASSES = (8, 16), ((4, 5), (2, 3)), 3
POINTS = [
    level_points(size, (s, s), 0.5, torch.device("cpu"))
    for size, s in zip(SIZES, STRIDES, strict=True)
]
LOCATIONS = sum(map(len, POINTS))
FED, OUTPUT, SCALE, OFFSET = (30, 38), (61, 75), (2.03, 1.97), (1, 2)


def random_levels(seed: int, images: int = 1, quality: bool = True) -> list[Level]:
    """Class scores from 0.02 to 0.7, boxes that overlap, reach outside and can be empty."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride, size in zip(STRIDES, SIZES, strict=True):
        logits = torch.randn(images, CLASSES, *size, generator=generator) * 1.5 - 1.5
        ltrb = torch.randn(images, 4, *size, generator=generator).add(0.8).relu() * stride
        centre = torch.randn(images, 1, *size, generator=generator) if quality else None
        levels.append(Level(stride, logits, ltrb, centre))
    return levels


def decode_one_by_one(levels: list[Level], valid: Tensor, rule: dict[str, Any]) -> Found:
    """Detections of the only image of `levels`."""
    candidates: Found = []
    rows = iter(valid[0].tolist())
    for level, points in zip(levels, POINTS, strict=True):
        of_level = []
        class_scores = level.logits[0].sigmoid().flatten(1).tolist()
        qualities = [1.0] * len(points)
        if level.quality is not None and rule["score"] != "class":
            qualities = level.quality[0, 0].sigmoid().flatten().tolist()
        ltrbs = level.ltrb[0].flatten(1).tolist()
        best_of_location = []
        for cell, (x, y) in enumerate(points.tolist()):
            left, top, right, bottom = (side[cell] for side in ltrbs)
            box = [x - left, y - top, x + right, y + bottom]
            inside = next(rows)
            pairs = []
            for label in range(CLASSES):
                score = class_scores[label][cell] * qualities[cell]
                score = math.sqrt(score) if rule["score"] == "sqrt" else score
                tested = class_scores[label][cell] if rule["threshold_on"] == "class" else score
                if tested > rule["score_threshold"] and inside:
                    pairs.append((label, score, box))
                best_of_location.append((score, cell)) if label == 0 else None
                best_of_location[cell] = max(best_of_location[cell], (score, cell))
            if rule["one_class"]:
                pairs = sorted(pairs, key=lambda pair: -pair[1])[:1]
            of_level += [(pair, cell) for pair in pairs]
        if rule["top_k_of"] == "pairs":
            of_level = sorted(of_level, key=lambda row: -row[0][1])[: rule["top_k"]]
        else:
            best = {cell for _, cell in sorted(best_of_location, reverse=True)[: rule["top_k"]]}
            of_level = [row for row in of_level if row[1] in best]
        candidates += [pair for pair, _ in of_level]
    candidates = sorted(candidates, key=lambda row: -row[1])[: rule["max_candidates"]]
    moved = [(label, score, shifted(box)) for label, score, box in candidates]
    if rule["clip"] == "before":
        last = int(rule["plus_one"])
        border = (FED[1] - last, FED[0] - last)
        moved = [(label, score, clipped(box, border)) for label, score, box in moved]
    kept = suppress(moved, rule["nms_threshold"], rule["plus_one"], rule["class_agnostic"])
    if rule["max_detections"] is not None and len(kept) > rule["max_detections"]:
        lowest = kept[rule["max_detections"] - 1][1]
        kept = [row for row in kept if row[1] >= lowest]
    kept = [(label, score, scaled(box)) for label, score, box in kept]
    if rule["clip"] == "after":
        kept = [(label, score, clipped(box, OUTPUT[::-1])) for label, score, box in kept]
        kept = [row for row in kept if row[2][2] > row[2][0] and row[2][3] > row[2][1]]
    return kept


def shifted(box: list[float]) -> list[float]:
    return [box[0] - OFFSET[1], box[1] - OFFSET[0], box[2] - OFFSET[1], box[3] - OFFSET[0]]


def scaled(box: list[float]) -> list[float]:
    return [side * SCALE[1 - axis % 2] for axis, side in enumerate(box)]


def decode(
    levels: list[Level], valid: Tensor | None = None, **rule: Any
) -> list[dict[str, Tensor]]:
    n = len(levels[0].logits)
    batch = ImageBatch(torch.empty(0), [FED] * n, [OFFSET] * n)
    decoder = Decoder(**rule)
    candidates = decoder.candidates(levels, POINTS, batch, valid)
    return decoder.detections(candidates, [OUTPUT] * n, [SCALE] * n)


def as_rows(result: dict[str, Tensor]) -> Found:
    columns = (result[key].tolist() for key in ("labels", "scores", "boxes"))
    return list(zip(*columns, strict=True))


def in_order(found: Found) -> Found:
    return sorted(found, key=lambda row: (row[0], *(round(side, 2) for side in row[2])))


rules = st.fixed_dictionaries(
    {
        "score": st.sampled_from(["sqrt", "product", "class"]),
        "score_threshold": st.sampled_from([0.05, 0.2, 0.5]),
        "threshold_on": st.sampled_from(["class", "score"]),
        "top_k": st.sampled_from([None, 1, 7]),
        "top_k_of": st.sampled_from(["pairs", "locations"]),
        "max_candidates": st.sampled_from([None, 10]),
        "one_class": st.booleans(),
        "nms_threshold": st.sampled_from([0.2, 0.6]),
        "class_agnostic": st.booleans(),
        "max_detections": st.sampled_from([None, 1, 5]),
        "plus_one": st.booleans(),
        "clip": st.sampled_from(["before", "after"]),
    }
)
seeds = st.integers(0, 10_000)


@given(seeds, rules, st.sampled_from([0.1, 0.3, 0.6]))
def test_a_lowest_score_leaves_out_the_detections_below_it_and_no_others(
    seed: int, rule: dict[str, Any], least: float
) -> None:
    levels = random_levels(seed, quality=True)
    every = as_rows(decode(levels, **rule)[0])
    assert as_rows(decode(levels, **rule, min_score=least)[0]) == [
        row for row in every if row[1] >= least
    ]


@given(seeds, rules, st.booleans())
def test_the_decoder_is_the_published_rules(seed: int, rule: dict[str, Any], quality: bool) -> None:
    levels = random_levels(seed, quality=quality)
    valid = torch.rand(1, LOCATIONS, generator=torch.Generator().manual_seed(seed)) > 0.2
    ours = as_rows(decode(levels, valid, **rule)[0])
    assert ours == sorted(ours, key=lambda row: -row[1])  # the best come first
    expected = decode_one_by_one(levels, valid, rule)
    assert len(ours) == len(expected)
    for mine, theirs in zip(in_order(ours), in_order(expected), strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], abs=1e-5)
        assert mine[2] == pytest.approx(theirs[2], abs=1e-3)


@given(seeds, rules)
def test_images_of_a_batch_do_not_affect_each_other(seed: int, rule: dict[str, Any]) -> None:
    levels, decoder = random_levels(seed, images=3), Decoder(**rule)
    batch = ImageBatch(torch.empty(0), [FED] * 3, [OFFSET] * 3)
    candidates = decoder.candidates(levels, POINTS, batch)
    together = decoder.detections(candidates, [OUTPUT] * 3, [SCALE] * 3)
    for i, result in enumerate(together):
        own = Candidates(*(values[i : i + 1] for values in candidates))
        (same,) = decoder.detections(own, [OUTPUT], [SCALE])
        image = [Level(s, c[i : i + 1], b[i : i + 1], q[i : i + 1]) for s, c, b, q in levels]
        (single,) = decode(image, **rule)
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(result[key], same[key])
            torch.testing.assert_close(result[key], single[key])


@given(seeds, rules)
def test_tensors_of_fixed_shape_hold_the_same_detections(seed: int, rule: dict[str, Any]) -> None:
    levels = random_levels(seed, images=2)
    decoder = Decoder(**rule)
    batch = ImageBatch(torch.empty(0), [FED] * 2, [OFFSET] * 2)
    candidates = decoder.candidates(levels, POINTS, batch)
    fixed = decoder.select(candidates, [OUTPUT] * 2, [SCALE] * 2)
    assert fixed.scores.shape == candidates.scores.shape
    for padded, result in zip(fixed.unpad(), decode(levels, **rule), strict=True):
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(padded[key], result[key])


@pytest.mark.parametrize("top_k", [7, None])
def test_nms_never_gets_the_boxes_of_two_images(
    top_k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = random_levels(0, images=256)
    most = sum(min(top_k or CLASSES * len(points), CLASSES * len(points)) for points in POINTS)
    boxes_per_call = []

    def counting_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        boxes_per_call.append(len(boxes))
        return nms(boxes, scores, iou_threshold)

    monkeypatch.setattr(postprocess, "nms", counting_nms)
    assert len(decode(levels, top_k=top_k)) == 256
    assert len(boxes_per_call) == 256
    assert 0 < max(boxes_per_call) <= most


@pytest.mark.parametrize("top_k_of", ["pairs", "locations"])
def test_nothing_over_the_threshold_gives_empty_tensors(top_k_of: Any) -> None:
    for result in decode(random_levels(0, images=2), score_threshold=0.999, top_k_of=top_k_of):
        assert result["boxes"].shape == (0, 4)
        assert result["scores"].shape == (0,)
        assert result["labels"].shape == (0,)
        assert result["boxes"].dtype == result["scores"].dtype == torch.float32
        assert result["labels"].dtype == torch.int64


def decode_boxes(boxes: list[list[float]], logits: list[float], **rule: Any) -> dict[str, Tensor]:
    """Decode xyxy boxes of one class, without a quality, in an image of 100 x 100."""
    scores = torch.full((1, 1, *SIZES[0]), -20.0)
    scores.flatten()[: len(logits)] = torch.tensor(logits)
    ltrb = torch.zeros(1, 4, len(POINTS[0]))
    for i, (box, (x, y)) in enumerate(zip(boxes, POINTS[0].tolist(), strict=False)):
        ltrb[0, :, i] = torch.tensor([x - box[0], y - box[1], box[2] - x, box[3] - y])
    level = Level(8, scores, ltrb.view(1, 4, *SIZES[0]), None)
    batch = ImageBatch(torch.empty(0), [(100, 100)], [(0, 0)])
    decoder = Decoder(**rule)
    return decoder.detections(decoder.candidates([level], POINTS[:1], batch), batch.sizes)[0]


FAR_APART = [[0.0, 0.0, 9.0, 9.0], [20.0, 20.0, 29.0, 29.0]]


@pytest.mark.parametrize(("logits", "count"), [([1.0, 1.0], 2), ([1.0, 0.9], 1)])
def test_detections_with_the_last_score_are_all_kept(logits: list[float], count: int) -> None:
    assert len(decode_boxes(FAR_APART, logits, max_detections=1)["scores"]) == count


@pytest.mark.parametrize(("plus_one", "count"), [(False, 2), (True, 1)])
def test_small_boxes_overlap_more_in_the_plus_one_convention(plus_one: bool, count: int) -> None:
    boxes = [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]]  # IoU 8 / 16, or 15 / 25
    found = decode_boxes(boxes, [1.0, 0.9], nms_threshold=0.55, plus_one=plus_one)
    assert len(found["scores"]) == count


def test_a_score_equal_to_the_threshold_is_dropped() -> None:
    found = decode_boxes(FAR_APART, [0.0, 1.0], score_threshold=0.5)
    assert found["boxes"].tolist() == [FAR_APART[1]]


def test_an_infinite_box_does_not_affect_the_others() -> None:
    boxes = [[20.0, 20.0, float("inf"), 29.0], [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]]
    found = decode_boxes(boxes, [1.0, 0.9, 0.8])
    assert found["boxes"].tolist() == [[20, 20, 100, 29], [0, 0, 9, 9]]
